package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/wire"
)

// ErrNotFound is what errors.Is finds in an error that says for certain that a
// registry does not hold what was asked for.
var ErrNotFound = errors.New("not found")

// ErrOffline is what errors.Is finds when a registry was needed that the
// client may not talk to.
var ErrOffline = errors.New("offline")

// ErrCorrupt says that a registry has something that is not what its digest or
// size says. Asking again does not help; publishing it again may.
var ErrCorrupt = errors.New("corrupt")

// Kind sorts failures by what can be done about them.
type Kind string

// The kinds of failures.
const (
	NotFound     Kind = "notfound"     // certainly not there
	Unauthorized Kind = "unauthorized" // credentials are missing or wrong
	Forbidden    Kind = "forbidden"    // credentials do not suffice
	RateLimited  Kind = "ratelimited"  // too many requests
	Unavailable  Kind = "unavailable"  // the registry has a problem of its own
	Unreachable  Kind = "unreachable"  // no answer at all
	Silent       Kind = "silent"       // it took the request, and then kept it waiting for too long
	Invalid      Kind = "invalid"      // an answer that must not be used, or a request that was refused
)

// Error is a failed operation on a registry. It holds no credentials and no
// signed URLs.
type Error struct {
	Op         string // "pulling", "looking up"
	Ref        string // what, as HOST/REPO:TAG
	Host       string
	Kind       Kind
	Status     int           // HTTP status; 0 when there was no answer
	Code       string        // the registry's own code, such as MANIFEST_UNKNOWN
	Message    string        // what is wrong, in the registry's words or ours
	RetryAfter time.Duration // when the registry asked to wait
	Err        error         // the cause, where there is one
}

// Error gives one line without hints.
func (e *Error) Error() string {
	return fmt.Sprintf("%s %q: %s", e.Op, e.Ref, e.text())
}

func (e *Error) text() string {
	said := ""
	if e.Message != "" {
		said = ": " + e.Message
	}
	switch e.Kind {
	case NotFound:
		return fmt.Sprintf("not found (%d%s)", e.Status, said)
	case Unauthorized:
		if e.Status == 0 {
			return e.Host + " asks for credentials" + said
		}
		return fmt.Sprintf("%s asks for credentials (%d%s)", e.Host, e.Status, said)
	case Forbidden:
		return fmt.Sprintf("%s denies access (%d%s)", e.Host, e.Status, said)
	case RateLimited:
		return fmt.Sprintf("%s limits requests (%d%s)", e.Host, e.Status, said)
	case Unavailable:
		if e.Status == 0 {
			return e.Host + " is unavailable" + said
		}
		return fmt.Sprintf("%s is unavailable (%d%s)", e.Host, e.Status, said)
	case Unreachable:
		return fmt.Sprintf("%s cannot be reached%s", e.Host, said)
	}
	if e.Status != 0 {
		return fmt.Sprintf("%s answered %d%s", e.Host, e.Status, said)
	}
	return e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrNotFound) mean: certainly not there.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Kind == NotFound
}

// withHint adds what the user can do about e.
func (e *Error) withHint() error {
	hint := ""
	switch e.Kind {
	case NotFound:
		if e.Code == "NAME_UNKNOWN" {
			hint = "there is no such repository yet; check the name, or push to it first"
		}
	case Unauthorized:
		hint = "docker login " + e.Host
		if e.Host == dockerHub {
			hint = "docker login"
		}
		hint += "  (some registries answer so for a repository that does not exist: check the name too)"
	case Forbidden:
		hint = fmt.Sprintf("check that the account has rights for it, and that the repository exists; to change the account: docker login %s", e.Host)
	case RateLimited:
		hint = "log in for a higher limit (docker login " + e.Host + "), or use fewer requests at once"
		if e.RetryAfter > 0 {
			hint = fmt.Sprintf("try again in %s, or log in for a higher limit: docker login %s", e.RetryAfter.Round(time.Second), e.Host)
		}
	case Unavailable:
		switch {
		case errors.Is(e.Err, syscall.ENOSPC):
			return diag.Hint(e, "make room on the disk, for example: strata store prune")
		case e.Host == EmbeddedHost:
			return diag.Hint(e, "check the folder of the embedded registry: strata doctor")
		}
		hint = "the registry has a problem of its own; try again later, or build without it: --offline"
	case Silent:
		hint = wire.SilenceHint
	case Unreachable:
		switch {
		case errors.Is(e.Err, ErrOffline):
			hint = "leave out --offline, or import the image: strata registry import ROOTFS.tar --as NAME"
		case isLoopback(e.Host):
			hint = fmt.Sprintf("is the registry running? try: curl http://%s/v2/", e.Host)
		default:
			hint = "is the registry running, and the name right? to build without it: --offline"
		}
	}
	if hint == "" {
		return e
	}
	return diag.Hint(e, "%s", hint)
}

// invalid is an answer that must not be used.
func invalid(op string, ref Ref, format string, args ...any) error {
	return (&Error{
		Op: op, Ref: ref.String(), Host: ref.Host, Kind: Invalid, Message: fmt.Sprintf(format, args...),
	}).withHint()
}

// corrupt is [invalid] for content that is not what its digest or size says.
func corrupt(op string, ref Ref, format string, args ...any) error {
	return (&Error{
		Op: op, Ref: ref.String(), Host: ref.Host, Kind: Invalid, Message: fmt.Sprintf(format, args...), Err: ErrCorrupt,
	}).withHint()
}

// offline is the answer of every host while the client may talk to none.
func offline(op string, ref Ref) error {
	return (&Error{
		Op: op, Ref: ref.String(), Host: ref.Host, Kind: Unreachable, Message: "this run is offline", Err: ErrOffline,
	}).withHint()
}

// notFoundCodes are what registries say when they do not have something. The
// first three are the specification's; Harbor says NOT_FOUND.
var notFoundCodes = map[string]bool{
	"MANIFEST_UNKNOWN": true, "NAME_UNKNOWN": true, "BLOB_UNKNOWN": true, "NOT_FOUND": true, "": true,
}

// maxErrorBody bounds what is read of an error's body; the specification
// suggests nothing, real ones have a few hundred bytes.
const maxErrorBody = 64 << 10

// responseError turns an answer that is not a success into an [*Error]. It
// reads and closes the body.
func responseError(op string, ref Ref, resp *http.Response) error {
	defer resp.Body.Close()
	e := &Error{Op: op, Ref: ref.String(), Host: ref.Host, Status: resp.StatusCode}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var list struct {
		Errors []struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &list) == nil && len(list.Errors) > 0 {
		e.Code = list.Errors[0].Code
		e.Message = plain(list.Errors[0].Message)
		if ref.Host == EmbeddedHost && resp.StatusCode >= 500 {
			e.fromDisk(list.Errors[0].Detail)
		}
	}
	e.RetryAfter = retryAfter(resp)
	e.Kind = kindOf(resp.StatusCode)
	if e.Kind == NotFound && !reallyMissing(resp, e.Code) {
		e.Kind = Invalid
		if e.Message == "" {
			e.Message = "this does not look like a registry's answer"
		}
	}
	if e.Message == "" {
		e.Message = strings.ToLower(http.StatusText(resp.StatusCode))
	}
	return e.withHint()
}

// errnoInDetail finds a system error in what distribution tells of a failure
// of its storage: a JSON form of *fs.PathError, or its text.
var errnoInDetail = regexp.MustCompile(`"Err":(\d+)`)

// fromDisk says what is wrong with the embedded registry's folder in the
// system's own words, and makes errors.Is(err, syscall.ENOSPC) work.
func (e *Error) fromDisk(detail []byte) {
	if m := errnoInDetail.FindSubmatch(detail); m != nil {
		n, _ := strconv.Atoi(string(m[1]))
		e.Err = syscall.Errno(n)
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EIO} {
		if bytes.Contains(detail, []byte(errno.Error())) {
			e.Err = errno
		}
	}
	if e.Err != nil {
		e.Message = e.Err.Error()
	}
}

// reallyMissing says whether a 404 comes from a registry that does not hold
// what was asked for, and not from a proxy or a web server in its place.
func reallyMissing(resp *http.Response, code string) bool {
	isPage := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
	isRegistry := !isPage || resp.Header.Get("Docker-Distribution-Api-Version") != ""
	return notFoundCodes[code] && isRegistry
}

func kindOf(status int) Kind {
	switch {
	case status == http.StatusNotFound:
		return NotFound
	case status == http.StatusUnauthorized:
		return Unauthorized
	case status == http.StatusForbidden:
		return Forbidden
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status >= 500:
		return Unavailable
	}
	return Invalid
}

// plain makes one printable line of what a registry said.
func plain(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

// transportError turns a request without an answer into an [*Error].
func transportError(ctx context.Context, op string, ref Ref, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %q: %w", op, ref, context.Cause(ctx))
	}
	e := &Error{Op: op, Ref: ref.String(), Host: ref.Host, Kind: Unreachable}
	var mine *Error
	var token *errcode.ErrorResponse
	var dns *net.DNSError
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err // the URL may be signed, and its length helps nobody
	}
	e.Err = err
	var silent *wire.Silence
	var refused *wire.Refused
	switch {
	case errors.As(err, &mine):
		return err
	case errors.As(err, &silent):
		e.Kind, e.Message = Silent, silent.Error()
	case errors.As(err, &refused):
		e.Kind, e.Message = Invalid, plain(refused.Error())
	case errors.As(err, &token):
		e.Kind, e.Status, e.Message = kindOf(token.StatusCode), token.StatusCode, "no token given"
		if len(token.Errors) > 0 {
			e.Code, e.Message = token.Errors[0].Code, plain(token.Errors[0].Message)
		}
		if e.Kind == NotFound || e.Kind == Invalid { // of the token service, not of the image
			e.Kind = Unauthorized
		}
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		e.Kind, e.Status, e.Message = Unauthorized, http.StatusUnauthorized, "no credentials found"
	case strings.Contains(err.Error(), "bearer realm"): // oras refuses to send a password there
		_, why, _ := strings.Cut(err.Error(), "bearer realm ")
		e.Kind, e.Message = Unauthorized, "the token service is not trusted: "+plain(why)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Message = "connection refused"
	case errors.As(err, &dns):
		e.Message = "no such host name"
	case isTimeout(err):
		e.Message = "no answer in time"
	case isCut(err):
		e.Kind, e.Message = Unavailable, "the connection was cut"
	default:
		e.Message = plain(err.Error())
	}
	return e.withHint()
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// isCut says whether a connection ended where it should not have.
func isCut(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "http2: client connection lost") // a ping without an answer; net/http has no name for it
}

// retryAfter reads Retry-After, in seconds or as a date; 0 when there is none.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, uint64(longestAfter/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(0, time.Until(t)), longestAfter)
	}
	return 0
}

// longestAfter is more than any registry means: Docker Hub counts by six hours.
const longestAfter = 24 * time.Hour
