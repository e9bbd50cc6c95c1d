package wire

import (
	"net"
	"net/netip"
)

// reach sorts addresses by who can get at them. A registry may send a client to
// its own kind, and to those that more people can get at.
type reach int

const (
	public   reach = iota // the internet
	private               // a network behind a router: RFC 1918, RFC 6598, RFC 4193
	loopback              // this machine
	link                  // this link, where the clouds have their metadata services
)

func (r reach) String() string {
	return [...]string{"a public address", "an address of a private network", "an address of this machine", "a link-local address"}[r]
}

// metadata are services that hand out credentials and lie elsewhere than on the
// link: of AWS over IPv6, Alibaba, Oracle, Azure.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("168.63.129.16"),
}

var (
	carrier  = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	nat64    = netip.MustParsePrefix("64:ff9b::/96")  // RFC 6052: an IPv4 address at the end
	nat64own = netip.MustParsePrefix("64:ff9b:1::/48")
	sixTo4   = netip.MustParsePrefix("2002::/16") // RFC 3056: an IPv4 address after the prefix
	reserved = netip.MustParsePrefix("240.0.0.0/4")
)

func reachOf(a netip.Addr) reach {
	a = a.Unmap().WithZone("")
	switch b := a.As16(); {
	case nat64.Contains(a):
		a = netip.AddrFrom4([4]byte(b[12:]))
	case sixTo4.Contains(a):
		a = netip.AddrFrom4([4]byte(b[2:6]))
	}
	for _, m := range metadata {
		if a == m {
			return link
		}
	}
	switch {
	case a.IsLinkLocalUnicast(), a.IsMulticast(), reserved.Contains(a), nat64own.Contains(a):
		return link
	case a.IsLoopback(), a.IsUnspecified(), a.Is4() && a.As4()[0] == 0: // Linux takes 0.0.0.0 for itself
		return loopback
	case a.IsPrivate(), carrier.Contains(a):
		return private
	}
	return public
}

// reachOfAddr reads HOST:PORT with a number for a host.
func reachOfAddr(addr net.Addr) (reach, bool) {
	p, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return public, false
	}
	return reachOf(p.Addr()), true
}

// mayReach says whether a registry that is at from may send a client to to.
func mayReach(from, to reach) bool { return to <= from }
