package broker

import (
	"cmp"
	"slices"
)

// unacked is what a channel has delivered and not seen settled, by delivery tag. Tags are given out in order and mostly
// settled in order, so it is a list of pages of consecutive tags: adding and settling cost no search and no allocation
// of their own, and a tag that stays unsettled for ever holds one page and no more.
type unacked struct {
	pages []*unackedPage // by first tag
	spare *unackedPage
	last  uint64 // the last tag given out
	count int
}

const pageSize = 64

type unackedPage struct {
	number uint64 // of tags number*pageSize …
	live   int
	slots  [pageSize]unsettled
}

// unsettled is one delivery; consumer is nil when it is settled.
type unsettled struct {
	consumer *consumer
	id       uint64 // delivery id of the consumer
	at       ticks  // when it was handed out
}

// add gives out the next tag.
func (u *unacked) add(c *consumer, id uint64, at ticks) (tag uint64) {
	u.last++
	u.put(u.last, unsettled{c, id, at})
	return u.last
}

// skip gives out a tag that needs no settling.
func (u *unacked) skip() (tag uint64) {
	u.last++
	return u.last
}

func (u *unacked) put(tag uint64, e unsettled) {
	p := u.page(tag / pageSize)
	p.slots[tag%pageSize] = e
	p.live++
	u.count++
}

// page returns the page of that number, made when it is not there.
func (u *unacked) page(number uint64) *unackedPage {
	if n := len(u.pages); n > 0 && u.pages[n-1].number == number {
		return u.pages[n-1]
	}
	i, found := u.find(number)
	if !found {
		p := u.spare
		if u.spare = nil; p == nil {
			p = new(unackedPage)
		}
		p.number = number
		u.pages = slices.Insert(u.pages, i, p)
	}
	return u.pages[i]
}

func (u *unacked) find(number uint64) (int, bool) {
	if len(u.pages) == 0 {
		return 0, false
	}
	// Without gaps the place follows from the number.
	if i := number - u.pages[0].number; i < uint64(len(u.pages)) && u.pages[i].number == number {
		return int(i), true
	}
	return slices.BinarySearchFunc(u.pages, number, func(p *unackedPage, n uint64) int { return cmp.Compare(p.number, n) })
}

// take settles one tag; false when it is not there.
func (u *unacked) take(tag uint64) (unsettled, bool) {
	i, found := u.find(tag / pageSize)
	if !found {
		return unsettled{}, false
	}
	p := u.pages[i]
	e := p.slots[tag%pageSize]
	if e.consumer == nil {
		return unsettled{}, false
	}
	p.slots[tag%pageSize] = unsettled{}
	p.live--
	u.count--
	if p.live == 0 {
		u.pages = slices.Delete(u.pages, i, i+1)
		u.spare = p
	}
	return e, true
}

// oldest returns the delivery with the lowest tag.
func (u *unacked) oldest() (first unsettled, ok bool) {
	u.each(func(e unsettled) bool {
		first, ok = e, true
		return false
	})
	return first, ok
}

// each goes through the deliveries in the order of their tags, while f says so.
func (u *unacked) each(f func(unsettled) bool) {
	for _, p := range u.pages {
		for i := range p.slots {
			if p.slots[i].consumer != nil && !f(p.slots[i]) {
				return
			}
		}
	}
}

func (u *unacked) has(tag uint64) bool {
	i, found := u.find(tag / pageSize)
	return found && u.pages[i].slots[tag%pageSize].consumer != nil
}

// stamp notes another time of handing out for a tag, or for all up to it.
func (u *unacked) stamp(tag uint64, through bool, at ticks) {
	for _, p := range u.pages {
		if p.number > tag/pageSize {
			return
		}
		for i := range p.slots {
			if t := p.number*pageSize + uint64(i); t == tag || through && t < tag {
				p.slots[i].at = at
			}
		}
	}
}

// takeThrough settles all tags up to and including tag, in order.
func (u *unacked) takeThrough(tag uint64, f func(tag uint64, e unsettled)) {
	whole := 0 // pages that are empty afterwards
	for _, p := range u.pages {
		if p.number > tag/pageSize {
			break
		}
		u.takeFromPage(p, tag, f)
		if p.live > 0 {
			break
		}
		whole++
	}
	if whole > 0 {
		u.spare = u.pages[0]
		u.pages = slices.Delete(u.pages, 0, whole)
	}
}

func (u *unacked) takeFromPage(p *unackedPage, through uint64, f func(tag uint64, e unsettled)) {
	for i := range p.slots {
		tag := p.number*pageSize + uint64(i)
		if tag > through || p.live == 0 {
			return
		}
		if e := p.slots[i]; e.consumer != nil {
			p.slots[i] = unsettled{}
			p.live--
			u.count--
			f(tag, e)
		}
	}
}
