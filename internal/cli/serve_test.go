//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// served is a strata that serves, in a process of its own.
type served struct {
	cmd *exec.Cmd
	url string
	err *bytes.Buffer
}

// serveIt starts "strata registry serve" on a free port over the home.
func serveIt(t *testing.T, home string, args ...string) *served {
	t.Helper()
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &served{cmd: exec.Command(me, append([]string{"registry", "serve", "--addr", "127.0.0.1:0"}, args...)...), err: &bytes.Buffer{}}
	s.cmd.Env = append(os.Environ(), "STRATA_HOME="+home)
	s.cmd.Args[0] = "strata"
	s.cmd.Stderr = s.err
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if s.url = regexp.MustCompile(`https?://\S+`).FindString(line); err != nil || s.url == "" {
		_ = s.cmd.Wait()
		t.Fatalf("it said %q, %v\n%s", line, err, s.err)
	}
	return s
}

// end ends it by SIGTERM, which takes no second whatever its clients do.
func (s *served) end(t *testing.T) {
	t.Helper()
	before := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	if code, took := s.cmd.ProcessState.ExitCode(), time.Since(before); code != 143 || took > time.Second {
		t.Errorf("it ended with %d after %v\n%s", code, took, s.err)
	}
}

// certificate writes one for 127.0.0.1 and its key.
func certificate(t *testing.T, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost", "images.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(cert, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return cert, key, pool
}

func htpasswd(t *testing.T, dir, name, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "users")
	if err := os.WriteFile(file, fmt.Appendf(nil, "%s:%s\n", name, h), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// ask sends a request and gives status and the code of the error in the answer.
func ask(t *testing.T, c *http.Client, method, url, host string, user ...string) (status int, code string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if len(user) > 0 {
		req.SetBasicAuth(user[0], user[1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &e) == nil && len(e.Errors) == 1 && e.Errors[0].Message != "" {
		code = e.Errors[0].Code
	}
	return resp.StatusCode, code
}

func wantAnswer(t *testing.T, what string, status int, code string, wantStatus int, wantCode string) {
	t.Helper()
	if status != wantStatus || code != wantCode {
		t.Errorf("%s: %d %s, want %d %s", what, status, code, wantStatus, wantCode)
	}
}

// The registry with passwords, over HTTP and HTTPS, and one that can only be
// read: refusals are errors of the distribution API, and strata itself logs in.
func TestRegistryServe(t *testing.T) {
	dir := t.TempDir()
	users := htpasswd(t, dir, "ann", "secret")
	cert, key, pool := certificate(t, dir)
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}}

	s := serveIt(t, filepath.Join(dir, "secure"), "--htpasswd", users, "--tls-cert", cert, "--tls-key", key, "--host", "images.example.com")
	if !strings.HasPrefix(s.url, "https://") {
		t.Fatalf("it serves at %s", s.url)
	}
	status, code := ask(t, secure, "GET", s.url+"/v2/", "localhost")
	wantAnswer(t, "without a password", status, code, 401, "UNAUTHORIZED")
	status, code = ask(t, secure, "GET", s.url+"/v2/", "images.example.com", "ann", "secret")
	wantAnswer(t, "with the password", status, code, 200, "")
	status, code = ask(t, secure, "GET", s.url+"/v2/", "evil.example.com", "ann", "secret")
	wantAnswer(t, "under another name", status, code, 421, "DENIED")
	status, code = ask(t, secure, "TRACE", s.url+"/v2/", "localhost", "ann", "secret")
	wantAnswer(t, "TRACE", status, code, 405, "UNSUPPORTED")
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost", MaxVersion: tls.VersionTLS11}}}
	if resp, err := old.Get(s.url + "/v2/"); err == nil {
		resp.Body.Close()
		t.Error("TLS 1.1 is spoken")
	}
	s.end(t)

	home := filepath.Join(dir, "plain")
	s = serveIt(t, home, "--htpasswd", users)
	project := filepath.Join(dir, "p")
	if err := os.Mkdir(project, 0o755); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(s.url, "http://")
	for name, text := range map[string]string{
		"strata.yaml": "image: " + host + "/team/app\nlayers: {app: {}}\n", "Dockerfile": "FROM scratch\nCOPY f /\n", "f": "hello",
	} {
		if err := os.WriteFile(filepath.Join(project, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	push := func(password string) (string, error) {
		t.Helper()
		auth := base64.StdEncoding.EncodeToString([]byte("ann:" + password))
		config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, auth)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(s.cmd.Path, "build", "--push")
		cmd.Args[0], cmd.Dir = "strata", project
		cmd.Env = append(os.Environ(), "STRATA_HOME="+filepath.Join(dir, "mine"), "DOCKER_CONFIG="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := push("wrong"); err == nil || !strings.Contains(out, "401") || strings.Contains(out, "wrong") {
		t.Errorf("with a wrong password: %v\n%s", err, out)
	}
	if out, err := push("secret"); err != nil {
		t.Errorf("with the password: %v\n%s", err, out)
	}
	s.end(t)

	s = serveIt(t, home, "--readonly")
	status, code = ask(t, &http.Client{}, "GET", s.url+"/v2/team/app/tags/list", "")
	wantAnswer(t, "reading", status, code, 200, "")
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		status, code = ask(t, &http.Client{}, method, s.url+"/v2/team/app/blobs/uploads/", "")
		wantAnswer(t, method, status, code, 405, "UNSUPPORTED")
	}
	s.end(t)
}

// What can't be served is said before a port is opened.
func TestRegistryServeRefuses(t *testing.T) {
	dir := t.TempDir()
	cert, key, _ := certificate(t, dir)
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("ann:hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--tls-cert and --tls-key need each other": {"--tls-cert", cert},
		"reading the certificate":                  {"--tls-cert", key, "--tls-key", cert},
		"line 1 has no bcrypt hash":                {"--htpasswd", open},
		"no such file":                             {"--htpasswd", filepath.Join(dir, "absent")},
	} {
		cmd := exec.Command(me, append([]string{"registry", "serve", "--addr", "127.0.0.1:0"}, args...)...)
		cmd.Args[0] = "strata"
		cmd.Env = append(os.Environ(), "STRATA_HOME="+filepath.Join(dir, "home"))
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "strata: hint:") || strings.Contains(string(out), "hunter2") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
