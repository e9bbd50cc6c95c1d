package printable

import (
	"regexp"
	"slices"
	"strings"
)

// Blot stands where a credential was.
const Blot = "***"

// Redact gives s without credentials: those of URLs (user:password@, and tokens
// in the query), of Authorization headers, of BuildKit's cache attributes, and
// tokens whose form tells what they are. A password that stands in no such place
// is not known as one.
func Redact(s string) string {
	if !suspicious(s) {
		return s
	}
	s = mayBe.ReplaceAllString(URL(s), "$1$2="+Blot)
	s = replace(s, bareUserinfo, func(m []string) string {
		if strings.EqualFold(m[2], "mailto") || isDigest(m[4]) {
			return m[0]
		}
		return m[1] + Blot + "@" + m[4]
	})
	s = replace(s, header, func(m []string) string {
		if !strings.ContainsAny(m[2], "0123456789") || strings.Contains(m[2], "realm") {
			return m[0] // words about a scheme
		}
		return m[1] + " " + Blot
	})
	s = attribute.ReplaceAllString(s, "$1$2="+Blot)
	return known.ReplaceAllString(s, Blot)
}

// URL gives a text in which URLs have neither a user nor a password nor tokens.
// It leaves everything else alone, parameters that may say what is fetched among
// it.
func URL(s string) string {
	if strings.Contains(s, "://") {
		s = replace(s, userinfo, func(m []string) string {
			if isDigest(m[3]) || m[2] == "git" && m[1] != "http://" && m[1] != "https://" {
				return m[0] // docker-image://name@sha256:..., ssh://git@host
			}
			return m[1] + Blot + "@" + m[3]
		})
	}
	if strings.ContainsAny(s, "?&") {
		s = query.ReplaceAllString(s, "$1$2="+Blot)
	}
	return s
}

var (
	// userinfo is that of a URL (RFC 3986, 3.2.1). It takes all up to the last @
	// before a slash or blank, since passwords contain @ unescaped; and what
	// follows a colon and is no port, since they contain slashes.
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)((?:[^/\s"'<>` + "`" + `]|\\["'])*|[^/\s"'<>@:]+:[^0-9/\s@][^\s@]*)@([^\s"'<>/@]*)`)
	// bareUserinfo is the same where the scheme is left out, as for a proxy or a
	// registry, or what is left of a URL that was taken for a path. The host has a dot or a port: name:tag@something is an image.
	bareUserinfo = regexp.MustCompile(`(^|[\s"'=(,` + "`" + `]|:/|//)([A-Za-z0-9._~%+-]+):([^\s/@"'<>]+)@((?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+|[A-Za-z0-9-]+:[0-9]+|localhost)`)
	// query is a parameter whose name says that it opens something.
	query = regexp.MustCompile(`(?i)([?&]|%26|%3f|\\u0026)([a-z0-9_.\[\]%-]*(?:token|secret|passw|signature|credential|api[_-]?key|access[_-]?key)[a-z0-9_.\[\]%-]*|sig|jwt)=[^&\s"'<>#` + "`" + `]+`)
	// mayBe is one whose name is as often that of something else.
	mayBe = regexp.MustCompile(`(?i)([?&]|%26|%3f|\\u0026)(key|auth|pwd|pass)=[^&\s"'<>#` + "`" + `]+`)
	// header is the value of an Authorization header (RFC 7235).
	header = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([A-Za-z0-9._~+/=-]{8,})`)
	// attribute is one of BuildKit's cache attributes that hold a secret.
	attribute = regexp.MustCompile(`(^|[,\s"'])(secret_access_key|access_key_id|session_token|account_key|account_url|ghtoken|token)=[^,\s"']+`)
	// known are tokens of GitHub, GitLab, Docker, AWS, npm, Slack, and JSON web
	// tokens.
	known = regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|gl(?:pat|ptt|dt|rt|cbt|soat)-[A-Za-z0-9_.-]{16,}|dckr_[po]at_[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|npm_[A-Za-z0-9]{30,}|xox[abprs]-[A-Za-z0-9-]{10,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)`)
)

// suspicious says whether s may hold a credential. It is quick, and wrong on the
// side of care.
func suspicious(s string) bool {
	if strings.ContainsAny(s, "@=") {
		return true
	}
	return slices.ContainsFunc([]string{"gh", "gl", "dckr_", "AKIA", "ASIA", "npm_", "xox", "eyJ"}, func(start string) bool { return strings.Contains(s, start) }) ||
		strings.Contains(strings.ToLower(s), "bearer") || strings.Contains(strings.ToLower(s), "basic")
}

// isDigest says whether a text begins with a digest, as a reference does behind
// its @.
func isDigest(s string) bool {
	return strings.HasPrefix(s, "sha256:") || strings.HasPrefix(s, "sha512:")
}

// replace puts f of its groups in the place of every match.
func replace(s string, re *regexp.Regexp, f func(groups []string) string) string {
	found := re.FindAllStringSubmatchIndex(s, -1)
	if found == nil {
		return s
	}
	var b strings.Builder
	done := 0
	for _, m := range found {
		groups := make([]string, len(m)/2)
		for i := range groups {
			if m[2*i] >= 0 {
				groups[i] = s[m[2*i]:m[2*i+1]]
			}
		}
		b.WriteString(s[done:m[0]])
		b.WriteString(f(groups))
		done = m[1]
	}
	return b.String() + s[done:]
}
