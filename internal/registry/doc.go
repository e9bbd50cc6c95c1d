// Package registry reads and writes OCI registries: any remote one, and the
// embedded one that Strata keeps in a folder.
//
// [Client] answers the questions that the rest of Strata has (is this tag
// there, give me this manifest, put this blob) in as few sequential round trips
// as the distribution protocol allows, and never confuses three answers: it is
// there, it is not there, it could not be found out. Whatever it reads is
// verified against its digest before it is handed on. Failures are [*Error]
// values with a hint for the user.
//
// Authentication comes from oras-go; limits per host, retries, resumed
// downloads and the count of requests and bytes are transports around it.
//
// [Embedded] is a whole registry over a folder that several processes may use
// at once. The client reaches it without a socket under the host name
// [EmbeddedHost], the engine in this process likewise; engines elsewhere on the
// machine reach it over a loopback listener. What is built for
// HOST/REPO is kept there as repository HOST/REPO. What is imported for it lies
// below [MirrorFolder], which nothing but an import writes to: reads of HOST/REPO
// find that first.
package registry
