package broker

import (
	"cmp"
	"math"
	"slices"
)

// Taking turns. The consumers of a channel can share a limit (qos with global), which their shards do not know: each is given up to
// the whole of it, and what is more than the limit lets through waits in the outbox, where they take turns. When the client takes
// nothing for a while (reading.look), what waits goes back to the queues, where other consumers get it, and the consumer is
// barred: it has no credit until there is room below the limit. Then the barred are asked about, those first that had no turn for longest:
// they have their credit again, and until the shard has answered the place is kept for them from those that were served
// since, whose shards were faster.

// wanted is how much a consumer is to have in hand, as far as its limits go. The outbox is locked.
func (c *consumer) wanted() uint32 {
	if c.barred {
		return 0
	}
	return c.channel.creditOf(c)
}

// free is how many more deliveries the channel's limit lets through.
func (ch *Channel) free() int {
	limit := ch.limit.Load()
	if limit == 0 {
		return math.MaxInt
	}
	return int(max(0, limit-ch.outstanding.Load()))
}

// yields tells whether a consumer leaves the places that are free to others. The outbox is locked.
func (ch *Channel) yields(c *consumer) bool {
	claims := 0
	claim := func(other *consumer) {
		if other.turn < c.turn && !other.gone {
			claims++
		}
	}
	for _, other := range ch.asking {
		claim(other)
	}
	for _, other := range ch.held {
		if other.barred {
			claim(other)
		}
	}
	return claims > 0 && claims >= ch.free()
}

// letGo lists the consumers that waited for the channel's limit or their own, and asks about as many of the barred as there is room
// for. It tells whether the writer has something to do. mu is held.
func (o *outbox) letGo(ch *Channel) (wake bool) {
	ch.anyHeld.Store(true) // before the counts are read, see Channel.reserve
	room := ch.free() - len(ch.asking)
	slices.SortStableFunc(ch.held, func(a, b *consumer) int { return cmp.Compare(a.turn, b.turn) })
	barred := ch.held[:0]
	for _, c := range ch.held {
		if c.barred && !c.gone {
			if room <= 0 {
				barred = append(barred, c)
				continue
			}
			room--
			c.barred = false
			ch.asking = append(ch.asking, c)
			o.slow(c) // and look ends the asking
			wake = true
		}
		c.held = false
		wake = o.list(c) || wake
	}
	clear(ch.held[len(barred):])
	ch.held = barred
	ch.anyHeld.Store(len(barred) > 0)
	return wake
}

// answered ends the asking about a consumer, and tells whether the writer has something to do. mu is held.
func (o *outbox) answered(c *consumer) (wake bool) {
	ch := c.channel
	i := slices.Index(ch.asking, c)
	if i < 0 {
		return false
	}
	ch.asking = slices.Delete(ch.asking, i, i+1)
	return o.letGo(ch)
}
