package fabrid_test

import (
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func document(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var quoted = regexp.MustCompile("`([^`]+)`")

// cells returns the rows of a document's tables that begin with something in
// backquotes, by cell.
func cells(text string) (rows [][]string) {
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "| `") {
			row := strings.Split(strings.Trim(line, "|"), "|")
			for i := range row {
				row[i] = strings.TrimSpace(row[i])
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func names(cell string) (all []string) {
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestArchitectureHasTheTable(t *testing.T) {
	drawn := make(map[string][]string)
	for _, row := range cells(document(t, "docs/ARCHITECTURE.md")) {
		for _, pkg := range names(row[0]) {
			drawn[pkg] = names(row[1])
		}
	}
	for pkg, allowed := range mayImport {
		want := strings.Fields(allowed)
		got := drawn[pkg]
		slices.Sort(want)
		slices.Sort(got)
		if pkg != "" && !slices.Equal(got, want) {
			t.Errorf("docs/ARCHITECTURE.md: %s may import %v, mayImport says %v", pkg, got, want)
		}
		delete(drawn, pkg)
	}
	for pkg := range drawn {
		t.Errorf("docs/ARCHITECTURE.md: %s is not in mayImport", pkg)
	}
}

var lockClass = regexp.MustCompile(`lockdep\.(?:RWMutex|Mutex|Completion|WaitGroup|Map)\[(\w+)\]`)

func TestLocksAreListed(t *testing.T) {
	listed := make(map[string]bool)
	for _, row := range cells(document(t, "docs/LOCKS.md")) {
		listed[names(row[0])[0]+"."+names(row[1])[0]] = true
	}
	used := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test || testOnly(s.dir) || s.dir == "lockdep" {
			continue
		}
		for _, m := range lockClass.FindAllStringSubmatch(document(t, s.path), -1) {
			class := s.dir + "." + m[1]
			if used[class] = true; !listed[class] {
				t.Errorf("%s: class %s is not in docs/LOCKS.md: say there what it guards, or what it waits for, and in what order", s.path, class)
				listed[class] = true // told once
			}
		}
	}
	for class := range listed {
		if !used[class] {
			t.Errorf("docs/LOCKS.md has %s, which the code does not: remove it", class)
		}
	}
}

// citation is how comments cite a specification: [Base, Identify command],
// [RFC9562 5.8], [IBTA] 9.7.5.
var citation = regexp.MustCompile(`\[((?:Base|NVM|RDMA|IBTA|RFC\d+)\b(?:,? [^\]…]+)?)\]((?: \d+(?:\.\d+)*)?)`)

func TestCitationsAreIndexed(t *testing.T) {
	all := sources(t)
	tests := make(map[string]bool)
	for _, s := range all {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test && f.Recv == nil {
				tests[s.dir+"."+f.Name.Name] = true
			}
		}
	}
	listed := make(map[string]bool)
	for _, row := range cells(document(t, "docs/SPEC.md")) {
		listed[names(row[0])[0]] = true
		for _, name := range names(row[len(row)-1]) {
			if !tests[name] {
				t.Errorf("docs/SPEC.md: %s is held by %s, which is not there", row[0], name)
			}
		}
	}
	used := make(map[string]bool)
	for _, s := range all {
		if s.test || testOnly(s.dir) {
			continue
		}
		for _, group := range s.file.Comments {
			text := strings.Join(strings.Fields(group.Text()), " ")
			for _, m := range citation.FindAllStringSubmatch(text, -1) {
				tag := "[" + m[1] + "]" + m[2]
				if used[tag] = true; !listed[tag] {
					t.Errorf("%s: %s is not in docs/SPEC.md: give it a row, with the tests that hold it", s.path, tag)
					listed[tag] = true // told once
				}
			}
		}
	}
	for tag := range listed {
		if !used[tag] {
			t.Errorf("docs/SPEC.md has %s, which no comment cites: remove it", tag)
		}
	}
}
