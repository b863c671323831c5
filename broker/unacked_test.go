package broker

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestUnackedAgainstMap runs random work against a plain map.
func TestUnackedAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var u unacked
		c := &consumer{}
		model := map[uint64]uint64{}
		last := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 3*pageSize).Draw(t, "n") {
					last++
					if tag := u.add(c, last*10, 0); tag != last {
						t.Fatalf("tag %d, want %d", tag, last)
					}
					model[last] = last * 10
				}
			},
			"skip": func(t *rapid.T) { last = u.skip() },
			"take": func(t *rapid.T) {
				tag := rapid.Uint64Range(0, last+1).Draw(t, "tag")
				e, ok := u.take(tag)
				if id, want := model[tag]; ok != want || ok && e.id != id {
					t.Fatalf("take %d: %v %v, want %v", tag, e.id, ok, want)
				}
				delete(model, tag)
			},
			"put back": func(t *rapid.T) {
				tag := rapid.Uint64Range(0, last+1).Draw(t, "tag")
				if e, ok := u.take(tag); ok {
					u.put(tag, e)
				}
			},
			"take through": func(t *rapid.T) {
				tag := rapid.Uint64Range(0, last+1).Draw(t, "tag")
				var got, want []uint64
				u.takeThrough(tag, func(tag uint64, e unsettled) {
					got = append(got, tag)
					if e.id != model[tag] {
						t.Fatalf("id %d of tag %d", e.id, tag)
					}
				})
				for _, k := range slices.Sorted(maps.Keys(model)) {
					if k <= tag {
						want = append(want, k)
						delete(model, k)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("through %d: %v, want %v", tag, got, want)
				}
			},
			"": func(t *rapid.T) {
				if u.count != len(model) {
					t.Fatalf("count %d, want %d", u.count, len(model))
				}
				live := 0
				for i, p := range u.pages {
					live += p.live
					if p.live == 0 || i > 0 && p.number <= u.pages[i-1].number {
						t.Fatalf("page %d of %d: number %d, %d live", i, len(u.pages), p.number, p.live)
					}
				}
				if live != len(model) {
					t.Fatalf("%d live, want %d", live, len(model))
				}
			},
		})
	})
}
