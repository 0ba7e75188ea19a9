package list

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type thing struct {
	n             int
	links, others Links[thing]
}

type (
	mine   struct{}
	theirs struct{}
)

func (mine) Links(t *thing) *Links[thing]   { return &t.links }
func (theirs) Links(t *thing) *Links[thing] { return &t.others }

// A list is a slice, whatever is done; a thing can be in two by links apart.
func TestList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l List[thing, mine]
		var all List[thing, theirs]
		var want []*thing
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				x := &thing{n: n}
				n++
				l.Push(x)
				all.Push(x)
				want = append(want, x)
			},
			"remove": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(want)-1).Draw(t, "i")
				l.Remove(want[i])
				if want[i].links != (Links[thing]{}) {
					t.Fatal("what is out of the list has links")
				}
				want = slices.Delete(want, i, i+1)
			},
			"": func(t *rapid.T) {
				var got []*thing
				for x := l.First(); x != nil; x = l.Next(x) {
					got = append(got, x)
				}
				if !slices.Equal(got, want) || l.Len() != len(want) || all.Len() != n {
					t.Fatalf("%d things, %d of all, want %d of %d", l.Len(), all.Len(), len(want), n)
				}
				if len(want) > 0 && l.last != want[len(want)-1] || len(want) == 0 && l.last != nil {
					t.Fatal("the last is another")
				}
			},
		})
	})
}
