package queue

// pool hands out the memory of lanes and pages and takes it back. A snapshot may read what was there when it was taken
// for as long as it likes: taking one starts a new epoch, and what is older than the epoch is neither changed in place
// nor used again.
type pool struct {
	epoch  uint64
	blocks [2][]*block
	pages  [len(pageSizes)][]*page
}

// spare bounds what the pool keeps of each size: at most 1.2 MB in a shard, whatever a peak was.
const spare = 128

// block is a part of a lane: records in order. Its first may be gone already and its last not be written yet: the lane
// knows.
type block struct {
	epoch   uint64
	next    *block
	records []record // the length never changes
}

// A lane's first block is small, as most queues are short.
const (
	smallBlock = 8
	bigBlock   = 128
)

func (p *pool) block(big bool) *block {
	class, size := 0, smallBlock
	if big {
		class, size = 1, bigBlock
	}
	if free := p.blocks[class]; len(free) > 0 {
		b := free[len(free)-1]
		p.blocks[class] = free[:len(free)-1]
		b.epoch = p.epoch
		return b
	}
	return &block{epoch: p.epoch, records: make([]record, size)}
}

func (p *pool) freeBlock(b *block) {
	class := 0
	if len(b.records) > smallBlock {
		class = 1
	}
	if b.epoch != p.epoch || len(p.blocks[class]) >= spare {
		return
	}
	b.next = nil
	p.blocks[class] = append(p.blocks[class], b)
}

// pageSizes are the capacities of pages: a list begins with the smallest.
var pageSizes = [...]int{4, 16, 64}

func pageClass(n int) int {
	for class, size := range pageSizes {
		if n <= size {
			return class
		}
	}
	panic("queue: no page is so large")
}

// page returns an empty page with room for n entries.
func (p *pool) page(n int) *page {
	class := pageClass(n)
	if free := p.pages[class]; len(free) > 0 {
		pg := free[len(free)-1]
		p.pages[class] = free[:len(free)-1]
		pg.epoch, pg.low, pg.entries = p.epoch, 0, pg.entries[:0]
		return pg
	}
	return &page{epoch: p.epoch, entries: make([]entry, 0, pageSizes[class])}
}

func (p *pool) freePage(pg *page) {
	class := pageClass(cap(pg.entries))
	if pg.epoch == p.epoch && len(p.pages[class]) < spare {
		p.pages[class] = append(p.pages[class], pg)
	}
}
