//go:build linux

package buildkit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
)

var (
	_ build.Engine = (*Embedded)(nil)
	_ build.Engine = (*Remote)(nil)
)

// listen lets others dial e: a BuildKit that is elsewhere.
func listen(t *testing.T, e *Embedded, l net.Listener) {
	t.Helper()
	e.serving.Go(func() { _ = e.server.Serve(l) })
}

func dial(t *testing.T, addr string, o RemoteOptions) *Remote {
	t.Helper()
	o.DockerConfig = t.TempDir()
	r, err := Dial(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestRemoteEngineOverUnixSocket(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	socket := filepath.Join(t.TempDir(), "bk.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, e, l)
	r := dial(t, "unix://"+socket, RemoteOptions{})
	if p, err := r.Platforms(t.Context()); err != nil || len(p) == 0 {
		t.Errorf("platforms %q, %v", p, err)
	}
	j := job(t, "FROM strata.internal/base\nCOPY f /\nRUN cat /f\n", map[string]string{"f": "over the wire"})
	res, rec := mustBuild(t, r, j)
	if !strings.Contains(rec.text(event.StepLog), "over the wire") || len(res.Body) == 0 || len(res.Config) == 0 || res.Blob != nil {
		t.Errorf("result %+v\n%s", res, rec.text(event.StepLog))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = r.Build(ctx, job(t, sleeper, nil), event.Func(func(ev event.Event) {
		if ev.Type == event.StepLog && ev.Text == "running" {
			cancel()
		}
	}))
	if !errors.Is(err, context.Canceled) || sleepers(t) != 0 {
		t.Errorf("cancelled: %v, %d processes left", err, sleepers(t))
	}
}

func TestRemoteEngineOverMutualTLS(t *testing.T) {
	dir := t.TempDir()
	certs := makeCerts(t, dir)
	l, err := tls.Listen("tcp", "127.0.0.1:0", certs)
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, t.TempDir(), newHub(t))
	listen(t, e, l)
	addr := "tcp://" + l.Addr().String()
	with := TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "client.pem"), Key: filepath.Join(dir, "client.key"), ServerName: "engine.test"}
	r := dial(t, addr, RemoteOptions{TLS: with})
	mustBuild(t, r, job(t, "FROM scratch\nCOPY f /\n", map[string]string{"f": "x"}))

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Dial(ctx, addr, RemoteOptions{TLS: TLS{CA: with.CA, ServerName: with.ServerName}}); err == nil || diag.HintOf(err) == "" {
		t.Errorf("without a certificate: %v", err)
	}
}

// makeCerts writes an authority and a client's certificate and gives the
// server's side.
func makeCerts(t *testing.T, dir string) *tls.Config {
	t.Helper()
	caKey, ca := makeCert(t, "ca", nil, nil)
	srvKey, srv := makeCert(t, "engine.test", ca, caKey)
	cliKey, cli := makeCert(t, "client", ca, caKey)
	write := func(name, kind string, der []byte) {
		data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keyDER, err := x509.MarshalECPrivateKey(cliKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", ca.Raw)
	write("client.pem", "CERTIFICATE", cli.Raw)
	write("client.key", "EC PRIVATE KEY", keyDER)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{srv.Raw}, PrivateKey: srvKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"h2"},
	}
}

func makeCert(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: parent == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, out
}

func TestDialErrors(t *testing.T) {
	for _, tc := range []struct{ addr, want string }{
		{"ftp://x", `reading engine address "ftp://x": unknown kind of address`},
		{"buildkitd", `reading engine address "buildkitd": unknown kind of address`},
		{"unix:///nowhere.sock", `dialling engine "unix:///nowhere.sock": `},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := Dial(ctx, tc.addr, RemoteOptions{})
		cancel()
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) || diag.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", tc.addr, err, diag.HintOf(err))
		}
	}
}

// A registry that wants a password gets the one in docker's config; it is
// written nowhere else.
func TestCredentialsComeFromDockerConfig(t *testing.T) {
	const user, password = "ci", "s3cr3t-pa55"
	h := newHub(t)
	inner := h.Config.Handler
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	config := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	text := `{"auths":{"` + h.addr + `":{"auth":"` + auth + `"}}}`
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, tc := range []struct{ config, want string }{{config, ""}, {t.TempDir(), "401 Unauthorized"}} {
		e, err := Open(t.Context(), Options{Root: root, DockerConfig: tc.config})
		if err != nil {
			t.Fatal(err)
		}
		j := job(t, "FROM scratch\nCOPY f /\n", map[string]string{"f": "x"})
		j.Repository = h.addr + "/private/app"
		rec := &recorder{}
		_, err = e.Build(t.Context(), j, rec)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("got %v, want %q", err, tc.want)
		}
		if err != nil && diag.HintOf(err) != "log in to the registry: docker login HOST" {
			t.Errorf("hint %q", diag.HintOf(err))
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(path)
			if strings.Contains(string(data), password) || strings.Contains(string(data), auth) {
				t.Errorf("the password is in %q", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
