package fabrid_test

import (
	"slices"
	"strings"
	"testing"
)

// module is the path of this module, with a slash.
const module = "github.com/fabrid/fabrid/"

// mayImport is the layering of the module: for each package, the packages of
// this module that it may import. docs/ARCHITECTURE.md draws it. Packages that
// are not here are programs and tests ([anything]), or do not exist.
var mayImport = map[string]string{
	"":                "", // the map of the rooms: no code
	"lockdep":         "",
	"nvme":            "",
	"internal/pcapng": "",
	"internal/list":   "",

	"shard":     "lockdep",
	"workqueue": "lockdep internal/list",
	"admission": "lockdep internal/list",
	"verbs":     "lockdep",
	"rdmacm":    "verbs workqueue lockdep internal/list",
	"bdev":      "shard workqueue lockdep",
	"transport": "nvme shard workqueue admission lockdep internal/list",

	"verbs/internal/soft": "verbs lockdep",
	"verbs/roce":          "verbs verbs/internal/soft rdmacm shard workqueue lockdep internal/list",

	"transport/loop": "transport nvme shard workqueue admission lockdep",
	"transport/rdma": "transport nvme verbs rdmacm shard workqueue admission lockdep", // never a provider

	"target": "nvme transport bdev shard admission workqueue lockdep", // never a fabric, never host
	"host":   "nvme transport shard workqueue lockdep",                // never a fabric, never target
	"load":   "host nvme verbs rdmacm shard lockdep",

	// fabric puts providers and transports together, for programs.
	"fabric": "verbs/roce rdmacm transport transport/loop transport/rdma shard workqueue admission lockdep",

	// metrics shows what those count: never a fabric.
	"metrics": "target bdev transport admission workqueue nvme",

	"internal/simnet": "shard internal/pcapng lockdep",
}

// anything reports whether a package may import all of the module: programs,
// test systems, and packages that only tests import.
func anything(dir string) bool {
	top, _, _ := strings.Cut(dir, "/")
	return top == "cmd" || top == "test" || testOnly(dir)
}

// testOnly reports whether a package is for tests: then only they, and others
// of its kind, may import it.
func testOnly(dir string) bool {
	last := dir[strings.LastIndex(dir, "/")+1:]
	return strings.HasSuffix(last, "test") && last != "test" || strings.HasPrefix(last, "fake") || dir == "internal/simnet"
}

// thirdParty is who may import what is not ours, by the beginning of the import
// path: packages, or "tests" for test files and packages for tests.
var thirdParty = map[string]string{
	"golang.org/x/sys/":            "shard verbs/roce transport/rdma bdev cmd/fabrid test/bench tests",
	"github.com/spf13/cobra":       "cmd/fabrid",
	"github.com/spf13/pflag":       "cmd/fabrid",
	"github.com/HdrHistogram/":     "load cmd/fabrid test/bench",
	"github.com/prometheus/":       "metrics cmd/fabrid tests",
	"github.com/gopacket/gopacket": "tests",
	"go.uber.org/goleak":           "tests",
	"pgregory.net/rapid":           "tests",
}

func TestImports(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range sources(t) {
		allowed, listed := mayImport[f.dir]
		if f.test || !listed && anything(f.dir) {
			continue
		}
		seen[f.dir] = true
		if !listed {
			t.Errorf("%s: package %q has no row in mayImport: give it one, in imports_test.go and in docs/ARCHITECTURE.md", f.path, f.dir)
			continue
		}
		for _, path := range f.imports() {
			ours, ok := strings.CutPrefix(path, module)
			switch {
			case !ok:
			case testOnly(ours):
				t.Errorf("%s: imports %s, which is for tests", f.path, ours)
			case !slices.Contains(strings.Fields(allowed), ours):
				t.Errorf("%s: package %s may not import %s: it may import %s. "+
					"Move what is needed to where both may see it; the table is in imports_test.go", f.path, f.dir, ours, allowed)
			}
		}
	}
	for dir := range mayImport {
		if !seen[dir] {
			t.Errorf("mayImport has a row for %q, which has no Go files: remove it", dir)
		}
	}
}

func TestThirdParty(t *testing.T) {
	for _, f := range sources(t) {
		for _, path := range f.imports() {
			first, _, _ := strings.Cut(path, "/")
			if !strings.Contains(first, ".") || strings.HasPrefix(path, module) {
				continue // the standard library's, or ours
			}
			users := ""
			for prefix, u := range thirdParty {
				if strings.HasPrefix(path, prefix) {
					users = u
				}
			}
			who := f.dir
			if f.test || testOnly(f.dir) {
				who = "tests"
			}
			all := strings.Fields(users)
			if !slices.Contains(all, who) && !slices.Contains(all, f.dir) {
				t.Errorf("%s: imports %s, which the table thirdParty in imports_test.go allows to %q", f.path, path, users)
			}
		}
	}
}
