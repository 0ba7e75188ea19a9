package fabrid_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A source is a Go file of this module, whatever its build tags.
type source struct {
	path string // from the root, with slashes
	dir  string // of the package, "" for the root
	test bool   // a _test.go file
	file *ast.File
	fset *token.FileSet
}

// sources returns the files of the module.
func sources(t *testing.T) []source {
	t.Helper()
	all, err := readSources()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go files: the test does not run in the module's root")
	}
	return all
}

// readSources reads the files itself, and does not ask the go command, so that
// the test cache knows what a result depends on.
var readSources = sync.OnceValues(func() (all []source, err error) {
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (name[0] == '.' || name[0] == '_' || name == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		s := source{path: filepath.ToSlash(path), test: strings.HasSuffix(path, "_test.go"), fset: token.NewFileSet()}
		if s.dir = filepath.ToSlash(filepath.Dir(path)); s.dir == "." {
			s.dir = ""
		}
		s.file, err = parser.ParseFile(s.fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		all = append(all, s)
		return err
	})
	return all, err
})

// imports returns the import paths.
func (s *source) imports() []string {
	var all []string
	for _, i := range s.file.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err == nil {
			all = append(all, path)
		}
	}
	return all
}

// uses returns where the file names pkg.name, of an import without another name.
func (s *source) uses(pkg, name string) (lines []int) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != name {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == pkg {
			lines = append(lines, s.fset.Position(n.Pos()).Line)
		}
		return true
	})
	return lines
}

func (s *source) interop() bool { return s.dir == "test/interop" }

func (s *source) program() bool {
	return strings.HasPrefix(s.dir, "cmd/") || strings.HasPrefix(s.dir, "test/")
}

func TestPackagesHaveComments(t *testing.T) {
	documented := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		documented[s.dir] = documented[s.dir] || s.file.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %q has no comment: say in doc.go what it is and who may call it from where", dir)
		}
	}
}

// Waiting by sleeping is too short on a slow machine and too long on all others.
// In a synctest bubble it is exact, so packages whose tests know that are left
// alone.
func TestNoSleepInTests(t *testing.T) {
	all := sources(t)
	virtual := make(map[string]bool)
	for _, s := range all {
		if s.test && slices.Contains(s.imports(), "testing/synctest") {
			virtual[s.dir] = true
		}
	}
	for _, s := range all {
		if !s.test || s.interop() || virtual[s.dir] {
			continue
		}
		for _, line := range s.uses("time", "Sleep") {
			t.Errorf("%s:%d: time.Sleep: wait for what is to happen, or use testing/synctest", s.path, line)
		}
	}
}

func TestNoPlainMutexes(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.dir == "lockdep" {
			continue
		}
		for _, name := range []string{"Mutex", "RWMutex"} {
			for _, line := range s.uses("sync", name) {
				t.Errorf("%s:%d: sync.%s: use lockdep.%s with a class of its own and list that in docs/LOCKS.md", s.path, line, name, name)
			}
		}
	}
}

// panics is where the program may panic, and for which broken invariant. What a
// peer, a user or a machine can cause is an error.
var panics = map[string]string{
	"admission/budget.go":       "more charged than the bounds allow",
	"admission/grant.go":        "a grant returned twice, a negative charge",
	"admission/limits.go":       "more returned than was charged",
	"lockdep/goroutine.go":      "a runtime whose stack traces cannot be read",
	"lockdep/validator.go":      "reports",
	"nvme/sgl.go":               "a length that the caller should have bounded",
	"transport/loop/conn.go":    "a reservation over the limit that the fabric told",
	"transport/rdma/pool.go":    "a buffer given back twice",
	"transport/rdma/request.go": "a request used by who does not own it",
	"verbs/roce/cm_state.go":    "a move that the table of states does not have",
	"verbs/roce/crc.go":         "a table without an inverse",
	"workqueue/barrier.go":      "misuse that would lose or deadlock work",
	"workqueue/flush.go":        "misuse that would lose or deadlock work",
	"workqueue/queue.go":        "misuse that would lose or deadlock work",
	"workqueue/work.go":         "misuse that would lose or deadlock work",
	"workqueue/worker.go":       "misuse that would deadlock, and panics of works passed on",
}

func TestPanicsAreInvariants(t *testing.T) {
	met := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test || testOnly(s.dir) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "panic" {
				return true
			}
			met[s.path] = true
			if panics[s.path] == "" {
				t.Errorf("%s:%d: panic: return an error; if only a mistake in this program can lead here, list the file and the invariant in panics",
					s.path, s.fset.Position(n.Pos()).Line)
			}
			return true
		})
	}
	for path := range panics {
		if !met[path] {
			t.Errorf("panics has %s, where there is none: remove it", path)
		}
	}
}

// Libraries return errors and call Events; programs log, print and read the
// environment.
func TestLibrariesAreQuiet(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.program() {
			continue
		}
		for _, path := range s.imports() {
			if path == "log" || path == "log/slog" {
				t.Errorf("%s: imports %s: a library returns errors and calls Events", s.path, path)
			}
		}
		for _, use := range [][2]string{
			{"os", "Getenv"}, {"os", "LookupEnv"}, {"os", "Environ"}, {"os", "Exit"}, {"os", "Stdout"}, {"os", "Stderr"},
			{"fmt", "Print"}, {"fmt", "Printf"}, {"fmt", "Println"},
		} {
			for _, line := range s.uses(use[0], use[1]) {
				t.Errorf("%s:%d: %s.%s in a library: make it an option, an error or an event", s.path, line, use[0], use[1])
			}
		}
	}
}

// A file that long has two nouns in it.
func TestFilesAreShort(t *testing.T) {
	const most = 600
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if n := s.fset.File(s.file.Pos()).LineCount(); n > most {
			t.Errorf("%s: %d lines, want at most %d: split it by the specification's nouns", s.path, n, most)
		}
	}
}
