package packages

import (
	"errors"
	"fmt"
	"strings"
)

// Parse reads a database. Fields that it does not know are kept with the rest of
// their stanza. A stanza without a name is an error with its line.
func Parse(kind Kind, data []byte) (*DB, error) {
	read := parseDpkg
	switch kind {
	case Dpkg:
	case Apk:
		read = parseApk
	case Rpm:
		return nil, ErrRpm
	default:
		return nil, fmt.Errorf("reading a package database: its form %q is not known", kind)
	}
	db := &DB{Kind: kind, end: "\n\n"}
	text := string(data)
	for line := 1; ; {
		stanza, rest, skipped := nextStanza(text)
		line += skipped
		if stanza == "" {
			break
		}
		p, err := read(stanza)
		if err != nil {
			return nil, fmt.Errorf("reading the %s database: the package in line %d: %w", kind, line, err)
		}
		p.Text = stanza
		db.Packages = append(db.Packages, p)
		line += strings.Count(stanza, "\n")
		db.end, text = rest, rest
	}
	return db, nil
}

// nextStanza cuts the first stanza off a text: it ends before the line break
// that a blank line or the end follows. It also says how many line breaks stand
// before it.
func nextStanza(text string) (stanza, rest string, skipped int) {
	for {
		line, after, ok := strings.Cut(text, "\n")
		if !ok && blank(line) {
			return "", text, skipped
		}
		if !blank(line) {
			break
		}
		text = after
		skipped++
	}
	end := 0
	for {
		i := strings.IndexByte(text[end:], '\n')
		if i < 0 {
			return text, "", skipped
		}
		end += i
		next, _, _ := strings.Cut(text[end+1:], "\n")
		if blank(next) {
			return text[:end], text[end:], skipped
		}
		end++
	}
}

func blank(line string) bool { return strings.Trim(line, " \t\r") == "" }

// Encode writes the database: what was read comes out as it was, but for blank
// lines beyond the one between two stanzas.
func (db *DB) Encode() []byte {
	if len(db.list()) == 0 {
		return nil
	}
	var b strings.Builder
	for i, p := range db.Packages {
		if i > 0 {
			b.WriteString("\n\n")
		}
		b.WriteString(p.Text)
	}
	b.WriteString(db.end)
	return []byte(b.String())
}

var errNoName = errors.New("it has no name")

// parseDpkg reads a stanza of deb822 fields: "Name: value", lines that begin
// with a blank go on with the value before.
func parseDpkg(stanza string) (Package, error) {
	p := Package{fields: map[string]string{}}
	last := ""
	for line := range strings.Lines(stanza) {
		line = strings.TrimRight(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if last == "" {
				return p, fmt.Errorf("it begins in the middle of a field")
			}
			p.fields[last] += "\n" + line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(name, " \t") {
			return p, fmt.Errorf("the line %.60q is no field", line)
		}
		last = canonical(name)
		p.fields[last] = strings.TrimSpace(value)
	}
	p.Name, p.Version, p.Arch = p.fields["Package"], p.fields["Version"], p.fields["Architecture"]
	p.Source, _, _ = strings.Cut(p.fields["Source"], " ")
	if p.Name == "" {
		return p, errNoName
	}
	// Files of status.d have no Status: what has one there is installed.
	words := strings.Fields(p.fields["Status"])
	p.Installed = len(words) < 3 || words[2] != "not-installed" && words[2] != "config-files"
	return p, nil
}

// canonical writes a field's name as dpkg does: it does not tell case apart.
func canonical(name string) string {
	b := []byte(strings.ToLower(name))
	for i := range b {
		if (i == 0 || b[i-1] == '-') && 'a' <= b[i] && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

// parseApk reads a stanza of lines "X:value". What follows the first F: lists
// the package's files, which says nothing about the package.
func parseApk(stanza string) (Package, error) {
	p := Package{Installed: true, fields: map[string]string{}}
	for line := range strings.Lines(stanza) {
		line = strings.TrimRight(line, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || len(name) != 1 {
			return p, fmt.Errorf("the line %.60q is no field", line)
		}
		if name == "F" {
			break
		}
		if _, twice := p.fields[name]; !twice {
			p.fields[name] = value
		}
	}
	p.Name, p.Version, p.Arch, p.Source = p.fields["P"], p.fields["V"], p.fields["A"], p.fields["o"]
	if p.Name == "" {
		return p, errNoName
	}
	return p, nil
}
