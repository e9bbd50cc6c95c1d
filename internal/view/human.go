package view

import (
	"fmt"
	"strings"
	"time"
)

// Bytes gives n in decimal units, as registries and disks count: "12 B",
// "1.2 kB", "654 kB", "12.5 GB".
func Bytes(n int64) string {
	if n < 0 {
		if n == -n { // the one number without a counterpart
			n++
		}
		return "-" + Bytes(-n)
	}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		v /= 1000
		switch {
		case v < 99.95:
			return fmt.Sprintf("%.1f %s", v, unit)
		case v < 999.5 || unit == "EB":
			return fmt.Sprintf("%.0f %s", v, unit)
		}
	}
	panic("internal error: a size beyond exabytes")
}

// Duration gives d as a person would say it: "4 ms", "0.14 s", "12.3 s",
// "1 min 2 s", "2 h 5 min", "3 d 4 h".
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-max(d, -1<<62))
	}
	switch s := d.Seconds(); {
	case d == 0:
		return "0 s"
	case s < 0.0095:
		return fmt.Sprintf("%d ms", max(1, d.Round(time.Millisecond).Milliseconds()))
	case s < 9.995:
		return fmt.Sprintf("%.2f s", s)
	case s < 59.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 3599.5:
		n := int(d.Round(time.Second).Seconds())
		return fmt.Sprintf("%d min %d s", n/60, n%60)
	case s < 24*3600-30:
		n := int(d.Round(time.Minute).Minutes())
		return fmt.Sprintf("%d h %d min", n/60, n%60)
	}
	n := int(d.Round(time.Hour).Hours())
	return fmt.Sprintf("%d d %d h", n/24, n%24)
}

// seconds gives a count of seconds as [Duration] does.
func seconds(s float64) string {
	return Duration(time.Duration(s * float64(time.Second)))
}

// elapsed gives d for a figure that changes while one looks: tenths below a
// minute, then as [Duration].
func elapsed(d time.Duration) string {
	if d = max(d, 0).Truncate(100 * time.Millisecond); d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return Duration(d.Truncate(time.Second))
}

// shortDigest gives the algorithm and twelve digits of a digest.
func shortDigest(d string) string {
	if i := strings.IndexByte(d, ':'); i >= 0 && len(d) > i+13 {
		return d[:i+13]
	}
	return d
}
