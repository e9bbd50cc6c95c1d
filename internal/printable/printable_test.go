package printable

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"src/f":                      "src/f",
		"x\x1b]0;owned\a\x1b[2J\ny":  `x\x1b]0;owned\x07\x1b[2J\ny`,
		"a\u202eb\u2066c\u200fd":     `a\u202eb\u2066c\u200fd`,
		"a\u061cb\u2028c\u200bd":     `a\u061cb\u2028c\u200bd`,
		"\u009b31m":                  `\u009b31m`,
		"bad\xff\xfe":                `bad\xff\xfe`,
		"del\x7f":                    `del\x7f`,
		"tag\U000e0041":              `tag\U000e0041`,
		"größe 日本 ❤️ a\u0301":        "größe 日本 ❤️ a\u0301",
		"soft\u00adhyphen\ufeff":     `soft\u00adhyphen\ufeff`,
		"filler\u3164":               `filler\u3164`,
		"a\ttab\rreturn":             `a\ttab\rreturn`,
		"really a \ufffd":            "really a \ufffd",
		"https://u:p@h/x\x1b]0;t\a":  `https://***@h/x\x1b]0;t\x07`,
		"https://u:p\x1b[0m@h.io/\n": `https://***@h.io/\n`,
	} {
		if got := Line(in); got != want {
			t.Errorf("Line(%q) is %q, not %q", in, got, want)
		}
	}
	if got := Text("a\tb\nc\x1b[1m\r\n"); got != "a\tb\nc\\x1b[1m\\r\n" {
		t.Errorf("Text is %q", got)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"ADD https://user:s3cret@example.invalid/x /x":                          "ADD https://***@example.invalid/x /x",
		"https://ghp_s3crettoken@github.invalid/a/b.git#main":                   "https://***@github.invalid/a/b.git#main",
		"https://x-access-token:ghs_abc@github.com/a":                           "https://***@github.com/a",
		`parse "http://user:p@ss:w@proxy:3128/x": bad`:                          `parse "http://***@proxy:3128/x": bad`,
		`"https://user:p\"w@host/x"`:                                            `"https://***@host/x"`,
		"https://user:pa/ss@host/x":                                             "https://***@host/x",
		"https://host:8080/path@v1 and https://host/@scope/x":                   "https://host:8080/path@v1 and https://host/@scope/x",
		"ssh://git@host/x git@github.com:a/b.git":                               "ssh://git@host/x git@github.com:a/b.git",
		"ssh://git:s3cret@host/x":                                               "ssh://***@host/x",
		"docker-image://debian@sha256:00 debian:12@sha256:00":                   "docker-image://debian@sha256:00 debian:12@sha256:00",
		"FROM user:s3cret@registry.example/a":                                   "FROM ***@registry.example/a",
		"proxy user:s3cret@proxy:3128":                                          "proxy ***@proxy:3128",
		"mailto:me@example.org":                                                 "mailto:me@example.org",
		"https://h/x?a=1&token=s3cret&b=2":                                      "https://h/x?a=1&token=***&b=2",
		"https://h/x?access_token=s3cret#f":                                     "https://h/x?access_token=***#f",
		"https://h/x?X-Amz-Signature=00ff&X-Amz-Credential=AK%2F1&X-Amz-Date=1": "https://h/x?X-Amz-Signature=***&X-Amz-Credential=***&X-Amz-Date=1",
		"https://h/x?sv=1&sig=s3cret":                                           "https://h/x?sv=1&sig=***",
		"https://h/x?monkey=1&design=2":                                         "https://h/x?monkey=1&design=2",
		"Authorization: Bearer abc123def456":                                    "Authorization: Bearer ***",
		`Bearer realm="https://h/token",service="h"`:                            `Bearer realm="https://h/token",service="h"`,
		"basic authentication is needed":                                        "basic authentication is needed",
		"type=s3,bucket=b,secret_access_key=s3cret,region=r":                    "type=s3,bucket=b,secret_access_key=***,region=r",
		"said ghp_0123456789abcdef0123 twice":                                   "said *** twice",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s5R5":                         "***",
		"tcp://user:s3cret@10.0.0.1:1234":                                       "tcp://***@10.0.0.1:1234",
		"\"/p/https:/user:s3cret@h.invalid/x\" //user:s3cret@h.invalid/x":       "\"/p/https:/***@h.invalid/x\" //***@h.invalid/x",
		"a=b@c": "a=b@c",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) is %q, not %q", in, got, want)
		}
		if got := Redact(Redact(in)); got != want {
			t.Errorf("a second time Redact(%q) is %q", in, got)
		}
	}
}

func TestJSON(t *testing.T) {
	in := map[string]any{"a\u202e": "x\x1b\u2066\U000e0041 <&>", "url": "https://u:p\"w@h/?a=1&token=s3cret", "n": 1.5, "plain": `\ "quoted"`, "list": []any{"\u0085"}}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := JSON(data)
	if !Clean(string(out)) {
		t.Errorf("it holds what is hidden: %q", out)
	}
	var back map[string]any
	if err := json.Unmarshal(out, &back); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	for name, want := range map[string]any{"a\u202e": in["a\u202e"], "n": 1.5, "plain": in["plain"], "url": "https://***@h/?a=1&token=***"} {
		if back[name] != want {
			t.Errorf("%q is %q, not %q", name, back[name], want)
		}
	}
	for _, odd := range []string{"", "no json", `{"a`, `{"a\`, `"`, `{"a":"\ud800"}`} {
		if got := string(JSON([]byte(odd))); !strings.HasPrefix(odd, `{"a":`) && got != odd {
			t.Errorf("JSON(%q) is %q", odd, got)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"a\x1b[31m", "https://u:p@h/?token=1", "\xff\u202e", "x\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if !Clean(got) || !utf8.ValidString(got) {
			t.Errorf("Line(%q) is %q", s, got)
		}
		literal, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		out := JSON(literal)
		var back string
		if err := json.Unmarshal(out, &back); err != nil || !Clean(string(out)) {
			t.Errorf("JSON(%s) is %s: %v", literal, out, err)
		}
	})
}
