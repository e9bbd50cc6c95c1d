// Package wire is how requests to registries go over the network, whoever makes
// them: the client of package registry or the engine. [New] gives a transport
// that ends what has gone silent ([Limits]) and goes nowhere that a registry has
// no business to send it ([Refused]): a registry's redirect, upload location or
// token service can't reach this machine's own services or those of its network,
// unless the registry itself is there, and never with credentials.
package wire
