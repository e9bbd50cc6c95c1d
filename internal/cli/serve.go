package cli

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/serve"
	"github.com/strata-build/strata/internal/view"
	"github.com/strata-build/strata/internal/watch"
)

// doorFlags say who may come in at a port. Prefix stands before their names.
type doorFlags struct {
	prefix    string
	hosts     []string
	users     string
	cert, key string
}

func (d *doorFlags) add(fl *pflag.FlagSet, prefix string) {
	d.prefix = prefix
	fl.StringArrayVar(&d.hosts, prefix+"host", nil, "another `name` under which it is asked, besides localhost and the address; repeat it for more")
	fl.StringVar(&d.users, prefix+"htpasswd", "", "`file` of users and bcrypt hashes; the rest is refused (htpasswd -Bc FILE NAME)")
	fl.StringVar(&d.cert, prefix+"tls-cert", "", "`file` with the certificate, for HTTPS")
	fl.StringVar(&d.key, prefix+"tls-key", "", "`file` with its key")
}

// given says whether any was.
func (d *doorFlags) given() bool {
	return len(d.hosts) > 0 || d.users != "" || d.cert != "" || d.key != ""
}

// open reads the files that the flags name, and adds the names of this machine
// where others reach it.
func (a *app) open(d doorFlags, addr string) (names []string, users *serve.Users, config *tls.Config, err error) {
	if (d.cert == "") != (d.key == "") {
		return nil, nil, nil, usage("--%stls-cert and --%stls-key need each other", d.prefix, d.prefix)
	}
	at := func(file string) string {
		if filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(a.machine.Dir, file)
	}
	if d.users != "" {
		if users, err = serve.OpenUsers(at(d.users)); err != nil {
			return nil, nil, nil, err
		}
	}
	if d.cert != "" {
		if config, err = serve.LoadTLS(at(d.cert), at(d.key)); err != nil {
			return nil, nil, nil, err
		}
	}
	names = d.hosts
	if host, _, err := net.SplitHostPort(addr); err != nil || !onLoopback(host) {
		if name, err := os.Hostname(); err == nil {
			short, _, _ := strings.Cut(name, ".")
			names = append([]string{name, short, short + ".local"}, names...)
		}
		if err == nil && net.ParseIP(host) == nil { // listens on a name
			names = append(names, host)
		}
	}
	return names, users, config, nil
}

func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// warnOfOpenDoor tells what others on the network can do at a port.
func (a *app) warnOfOpenDoor(s *serve.Server, d doorFlags, writes string) {
	switch {
	case s.Loopback():
	case d.users == "" && writes != "":
		a.warn(diag.Finding{
			Text: fmt.Sprintf("whoever reaches %s may %s", s.Host(), writes),
			Hint: fmt.Sprintf("--%shtpasswd FILE asks for passwords, --readonly lets nobody write", d.prefix),
		})
	case d.users != "" && d.cert == "":
		a.warn(diag.Finding{
			Text: fmt.Sprintf("passwords go to %s in clear text", s.Host()),
			Hint: fmt.Sprintf("--%stls-cert and --%stls-key serve over HTTPS; or listen on 127.0.0.1, behind a proxy that does", d.prefix, d.prefix),
		})
	}
}

func (a *app) serveCmd() *cobra.Command {
	var addr string
	var door doorFlags
	var readOnly bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve the registry over HTTP until interrupted", Args: takes(0, 0),
		Long: `Serve lets other programs, such as docker, pull from and push to the registry on this
machine. It asks nobody for a password unless --htpasswd names some, so it listens on
this machine alone unless told otherwise: any account of it may read and write then.
Builds may run meanwhile; only store prune has to wait.

Requests are answered if they name this machine: localhost, the address that they
come in at, and, where it listens for others, the machine's name; --host adds more.
Web pages are not answered. The file of passwords is read again when it changes, the
certificate when serve starts.`,
		Example: `  strata registry serve
  strata registry serve --addr 127.0.0.1:5001
  strata registry serve --addr 0.0.0.0:5000 --readonly
  strata registry serve --addr 0.0.0.0:5000 --host images.example.com --htpasswd users \
    --tls-cert cert.pem --tls-key key.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access := registry.Access{ReadOnly: readOnly}
			var err error
			if access.Names, access.Users, access.TLS, err = a.open(door, addr); err != nil {
				return err
			}
			e, err := a.openRegistry()
			if err != nil {
				return err
			}
			s, err := e.ListenFor(addr, access)
			if errors.Is(err, syscall.EADDRINUSE) {
				return diag.Hint(err, "another program listens there; --addr 127.0.0.1:0 takes a free port")
			} else if err != nil {
				return diag.Hint(err, "--addr takes an address of this machine and a port: --addr 127.0.0.1:5000")
			}
			defer s.Close()
			writes := "read and write every image"
			if readOnly {
				writes = ""
			}
			a.warnOfOpenDoor(s, door, writes)
			view.Fprintf(a.machine.Stdout, "serving %s at %s\n", e.Dir(), s.URL())
			<-cmd.Context().Done()
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&addr, "addr", "127.0.0.1:5000", "`address` to listen on")
	fl.BoolVar(&readOnly, "readonly", false, "let nobody write or delete")
	door.add(fl, "")
	return cmd
}

// serveWatch serves a service's /healthz and /metrics until stop is called.
func (a *app) serveWatch(service *watch.Service, f watchFlags) (stop func() error, err error) {
	stop = func() error { return nil }
	if f.listen == "" {
		return stop, nil
	}
	var o serve.Options
	if o.Names, o.Users, o.TLS, err = a.open(f.door, f.listen); err != nil {
		return stop, err
	}
	s, err := serve.Listen(f.listen, service.Handler(), o)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = diag.Hint(err, "another program listens there; --listen 127.0.0.1:0 takes a free port")
	}
	if err != nil {
		return stop, err
	}
	a.warnOfOpenDoor(s, f.door, "")
	view.Fprintf(a.machine.Stderr, "serving %s/healthz and %s/metrics\n", s.URL(), s.URL())
	return s.Close, nil
}
