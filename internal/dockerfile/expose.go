package dockerfile

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// expandPorts expands the ports of an EXPOSE and writes each as "port/proto",
// ranges port by port, as they stand in an image's config.
func (a *analysis) expandPorts(o *op, s *scope, c *instructions.ExposeCommand) {
	var ports []string
	for _, p := range c.Ports {
		words, err := o.split(a.lex, s, p)
		if err != nil {
			a.errorf(o.in.line, "", "%s", reason(err))
			return
		}
		for _, w := range words {
			list, err := parsePorts(w)
			if err != nil {
				if len(o.open) == 0 {
					a.errorf(o.in.line, "write it as 8080, 8080/udp or 8000-8010", "EXPOSE %s: %s", w, err)
				}
				list = []string{w}
			}
			ports = append(ports, list...)
		}
	}
	c.Ports = ports
}

// parsePorts reads "[[ip:]host:]port[-port][/proto]". Only the container's side
// counts for an image.
func parsePorts(s string) ([]string, error) {
	host, port := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	port, proto, _ := strings.Cut(port, "/")
	switch proto = strings.ToLower(proto); proto {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("the protocol %q is none of tcp, udp and sctp", proto)
	}
	start, end, err := portRange(port)
	if err != nil {
		return nil, err
	}
	if err := checkHost(host, end-start); err != nil {
		return nil, err
	}
	out := make([]string, 0, end-start+1)
	for p := start; p <= end; p++ {
		out = append(out, strconv.Itoa(p)+"/"+proto)
	}
	return out, nil
}

// checkHost refuses what BuildKit refuses of the part before the container's
// port.
func checkHost(host string, span int) error {
	ip := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		ip, host = host[:i], host[i+1:]
	}
	if ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"); ip != "" && net.ParseIP(ip) == nil {
		return fmt.Errorf("%q is no IP address", ip)
	}
	if host == "" {
		return nil
	}
	start, end, err := portRange(host)
	if err == nil && end-start != span && span != 0 {
		err = fmt.Errorf("its ranges of host and container differ in length")
	}
	return err
}

func portRange(s string) (start, end int, err error) {
	first, last, ranged := strings.Cut(s, "-")
	if start, err = portNumber(first); err != nil || !ranged {
		return start, start, err
	}
	if end, err = portNumber(last); err == nil && end < start {
		err = fmt.Errorf("%q ends before it starts", s)
	}
	return start, end, err
}

func portNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 65535 {
		return 0, fmt.Errorf("%q is no port", s)
	}
	return n, nil
}
