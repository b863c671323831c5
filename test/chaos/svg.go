package chaos

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// The picture: throughput above, latency on a logarithmic scale in the middle, faults as bars below.
const (
	pictureWidth  = 1200
	marginLeft    = 90
	marginRight   = 20
	throughputTop = 60
	panelHeight   = 200
	panelSpace    = 50
	latencyTop    = throughputTop + panelHeight + panelSpace
	faultsTop     = latencyTop + panelHeight + panelSpace
	barHeight     = 14
)

// picture draws a time line.
type picture struct {
	strings.Builder
	end time.Duration
}

func (p *picture) x(at time.Duration) float64 {
	return marginLeft + float64(at)/float64(p.end)*(pictureWidth-marginLeft-marginRight)
}

func (p *picture) text(x, y float64, size int, anchor, text string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="#333">%s</text>`+"\n", x, y, size, anchor, html.EscapeString(text))
}

func (p *picture) line(x1, y1, x2, y2 float64, color string) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="0.7"/>`+"\n", x1, y1, x2, y2, color)
}

// curve draws one line; a NaN interrupts it.
func (p *picture) curve(points []Point, color string, y func(Point) float64) {
	path, pen := "", "M"
	for _, point := range points {
		v := y(point)
		if math.IsNaN(v) {
			pen = "M"
			continue
		}
		path += fmt.Sprintf("%s%.1f %.1f", pen, p.x(point.At+bucketLength/2), v)
		pen = "L"
	}
	fmt.Fprintf(p, `<path d="%s" fill="none" stroke="%s" stroke-width="1.2"/>`+"\n", path, color)
}

// SVG is the run's time line as a picture.
func (r *Result) SVG() string {
	p := &picture{end: time.Second}
	if n := len(r.Series); n > 0 {
		p.end = r.Series[n-1].At + bucketLength
	}
	actions, rows := r.rows()
	height := faultsTop + rows*(barHeight+4) + 40
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif">`+"\n", pictureWidth, height, pictureWidth, height)
	fmt.Fprintf(p, `<rect width="%d" height="%d" fill="white"/>`+"\n", pictureWidth, height)
	outcome := "all checkers clean"
	if r.Failed() {
		outcome = "FAILED"
	}
	p.text(marginLeft, 24, 16, "start", fmt.Sprintf("Warren chaos, seed %d: %s; %d confirmed, %d lost, %d duplicate, %d out of order", r.Options.Seed, outcome,
		r.Verdict.Confirmed, r.Verdict.Counts["lost"], r.Verdict.Counts["duplicate"], r.Verdict.Counts["order"]))
	for _, a := range actions { // shades behind the curves, so that each dip has its cause
		fmt.Fprintf(p, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s" opacity="0.12"/>`+"\n", p.x(a.Injected), throughputTop,
			max(1, p.x(a.Recovered)-p.x(a.Injected)), faultsTop-throughputTop, colorOf(a.Fault))
	}
	r.drawThroughput(p)
	r.drawLatency(p)
	r.drawTime(p, float64(height-30))
	for _, a := range actions {
		p.bar(a)
	}
	p.WriteString("</svg>\n")
	return p.String()
}

func (r *Result) drawThroughput(p *picture) {
	top := r.throughputScale()
	y := func(v float64) float64 { return throughputTop + panelHeight*(1-min(v/top, 1)) }
	for i := range 5 {
		v := top * float64(i) / 4
		p.line(marginLeft, y(v), pictureWidth-marginRight, y(v), "#ddd")
		p.text(marginLeft-6, y(v)+4, 11, "end", fmt.Sprintf("%.0f/s", v))
	}
	p.curve(r.Series, "#bbbbbb", func(v Point) float64 { return y(v.Published) })
	p.curve(r.Series, "#e08a1e", func(v Point) float64 { return y(v.Delivered) })
	p.curve(r.Series, "#1f6fb4", func(v Point) float64 { return y(v.Confirmed) })
	p.legend(throughputTop-8, []string{"published", "#999999", "delivered", "#e08a1e", "confirmed", "#1f6fb4", "errors seen by clients", "#c00000"})
	for _, v := range r.Series {
		if v.Errors > 0 {
			p.line(p.x(v.At), throughputTop+panelHeight, p.x(v.At), throughputTop+panelHeight-10, "#c00000")
		}
	}
}

// throughputScale is the top of the scale: what all but a few steps stay below. A burst after a pause is cut off, since it
// would press everything else flat.
func (r *Result) throughputScale() float64 {
	var values []float64
	for _, v := range r.Series {
		if v.Published > 0 {
			values = append(values, max(v.Published, v.Confirmed, v.Delivered))
		}
	}
	if len(values) == 0 {
		return 1
	}
	slices.Sort(values)
	return values[len(values)*9/10] * 1.3
}

func (r *Result) drawLatency(p *picture) {
	const low, high = 100 * time.Microsecond, 100 * time.Second
	scale := math.Log(float64(high) / float64(low))
	y := func(d time.Duration) float64 {
		if d == 0 {
			return math.NaN()
		}
		share := math.Log(float64(d)/float64(low)) / scale
		return latencyTop + panelHeight*(1-min(1, max(0, share)))
	}
	for d := low; d <= high; d *= 10 {
		p.line(marginLeft, y(d), pictureWidth-marginRight, y(d), "#ddd")
		p.text(marginLeft-6, y(d)+4, 11, "end", d.String())
	}
	p.curve(r.Series, "#7a3fa0", func(v Point) float64 { return y(v.P99) })
	p.curve(r.Series, "#2a8c4a", func(v Point) float64 { return y(v.P50) })
	p.legend(latencyTop-8, []string{"confirm latency, median", "#2a8c4a", "99th percentile", "#7a3fa0"})
}

func (p *picture) legend(y float64, entries []string) {
	x := float64(marginLeft)
	for i := 0; i < len(entries); i += 2 {
		fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="12" height="3" fill="%s"/>`+"\n", x, y-4, entries[i+1])
		p.text(x+16, y, 11, "start", entries[i])
		x += 40 + 6.5*float64(len(entries[i]))
	}
}

func (r *Result) drawTime(p *picture, y float64) {
	step := time.Second
	for _, s := range []time.Duration{2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600} {
		if p.end/step > 15 {
			step = s * time.Second
		}
	}
	for at := time.Duration(0); at <= p.end; at += step {
		p.line(p.x(at), throughputTop, p.x(at), y, "#eee")
		p.text(p.x(at), y+14, 11, "middle", at.String())
	}
}

// rows gives the faults that were done, each with the row of its bar, and the number of rows.
func (r *Result) rows() (list []placed, rows int) {
	var free []float64 // where each row is free again
	p := &picture{end: time.Second}
	if n := len(r.Series); n > 0 {
		p.end = r.Series[n-1].At + bucketLength
	}
	for _, a := range r.Schedule {
		for ; a != nil; a = a.With {
			if a.Injected == 0 {
				continue
			}
			row := 0
			for row < len(free) && free[row] > p.x(a.Injected) {
				row++
			}
			if row == len(free) {
				free = append(free, 0)
			}
			free[row] = max(p.x(a.Recovered)+4, p.x(a.Injected)+6.2*float64(len(placed{a, 0}.label())))
			list = append(list, placed{a, row})
		}
	}
	return list, len(free)
}

// placed is a fault with the row of its bar.
type placed struct {
	*Action
	row int
}

func (a placed) label() string {
	text := a.Fault
	for _, v := range a.Victims {
		text += fmt.Sprintf(" %d", v+1)
	}
	return text
}

// bar draws a fault: solid while it lasted, pale until all nodes served again.
func (p *picture) bar(a placed) {
	y := float64(faultsTop + a.row*(barHeight+4))
	for _, part := range []struct {
		from, to time.Duration
		opacity  float64
	}{{a.Injected, a.Healed, 0.9}, {a.Healed, a.Recovered, 0.4}} {
		fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s" opacity="%.1f"/>`+"\n", p.x(part.from), y,
			max(1, p.x(part.to)-p.x(part.from)), barHeight, colorOf(a.Fault), part.opacity)
	}
	p.text(p.x(a.Injected)+2, y+barHeight-3, 10, "start", a.label())
}

// colorOf gives each group of faults its colour.
func colorOf(name string) string {
	colors := map[string]string{"kill": "#d04040", "stop": "#d0a020", "restart": "#40a0a0", "partition": "#5070d0", "slow": "#70a0e0", "disk": "#a06030", "damage": "#a040a0"}
	if f := faultNamed(name); f != nil && colors[f.group] != "" {
		return colors[f.group]
	}
	return "#808080"
}
