package printable

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf16"
)

// JSON gives a JSON text whose strings hold no credentials, and in which every
// character that is hidden is written as JSON's escape for it. A reader of JSON
// gets the same strings as before but for the credentials. What is no JSON is
// given back as it is.
func JSON(data []byte) []byte {
	var out bytes.Buffer
	done := 0
	for at := 0; at < len(data); {
		start := bytes.IndexByte(data[at:], '"')
		if start < 0 {
			break
		}
		start += at
		end := endOfString(data, start)
		if at = end; end > len(data) {
			break
		}
		literal := data[start:end]
		if !bytes.Contains(literal, []byte{'\\'}) && Clean(string(literal)) && !suspicious(string(literal)) {
			continue
		}
		var s string
		if json.Unmarshal(literal, &s) != nil {
			continue
		}
		out.Write(data[done:start])
		out.WriteString(jsonString(Redact(s)))
		done = end
	}
	if done == 0 {
		return data
	}
	out.Write(data[done:])
	return out.Bytes()
}

// endOfString gives the offset behind the string that starts at start, and one
// behind the end of data where it never ends.
func endOfString(data []byte, start int) int {
	for i := start + 1; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data) + 1
}

// jsonString gives s as JSON has it, < and & as they are.
func jsonString(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always can be
	quoted := strings.TrimSuffix(b.String(), "\n")
	if Clean(quoted) {
		return quoted
	}
	var out strings.Builder
	for _, r := range quoted {
		switch {
		case !Hidden(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out.WriteString(`\u` + hex(uint32(high), 4) + `\u` + hex(uint32(low), 4))
		default:
			out.WriteString(`\u` + hex(uint32(r), 4))
		}
	}
	return out.String()
}
