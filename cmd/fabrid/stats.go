package main

import (
	"reflect"
	"strings"
	"unicode"

	"github.com/fabrid/fabrid/verbs/roce"
)

// addStats adds a device's counters that are not zero, by their names in lower
// case with underscores.
func addStats(to map[string]uint64, s roce.Stats) {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if n := v.Field(i).Uint(); n != 0 {
			to[snake(v.Type().Field(i).Name)] += n
		}
	}
}

// snake turns PacketsSent into packets_sent, and DropsICRC into drops_icrc.
func snake(name string) string {
	var b strings.Builder
	var last rune
	for i, r := range name {
		next := ' '
		if i+1 < len(name) {
			next = rune(name[i+1])
		}
		if unicode.IsUpper(r) && i > 0 && (unicode.IsLower(last) || unicode.IsLower(next) && next != 's') {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
		last = r
	}
	return b.String()
}
