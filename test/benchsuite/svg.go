package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// plot is groups of bars on a logarithmic scale: the brokers differ by factors.
type plot struct {
	title  string
	series []string // one bar of each group
	groups []barGroup
}

type barGroup struct {
	label string
	bars  []float64 // NaN: none
}

func (p *plot) add(label string, bars []float64) { p.groups = append(p.groups, barGroup{label, bars}) }

const (
	plotWidth  = 960
	plotLeft   = 80
	plotRight  = 20
	plotTop    = 70
	plotHeight = 260 // of the bars
	plotBottom = 40
)

var barColors = []string{"#1f6fb4", "#e08a1e", "#2a8c4a", "#7a3fa0", "#999999"}

// svg draws it.
func (p *plot) svg() string {
	low, high := p.decades()
	y := func(v float64) float64 {
		return plotTop + plotHeight*(1-(math.Log10(v)-low)/(high-low))
	}
	var out strings.Builder
	height := plotTop + plotHeight + plotBottom
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif">`+"\n", plotWidth, height, plotWidth, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, height)
	label(&out, plotLeft, 24, 16, "start", p.title)
	for d := low; d <= high; d++ {
		v := math.Pow(10, d)
		fmt.Fprintf(&out, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>`+"\n", plotLeft, y(v), plotWidth-plotRight, y(v))
		label(&out, plotLeft-6, y(v)+4, 11, "end", figure(v))
	}
	x := float64(plotLeft)
	for i, name := range p.series {
		fmt.Fprintf(&out, `<rect x="%.1f" y="40" width="12" height="12" fill="%s"/>`+"\n", x, barColors[i%len(barColors)])
		label(&out, x+18, 50, 12, "start", name)
		x += 40 + 7*float64(len(name))
	}
	slot := float64(plotWidth-plotLeft-plotRight) / float64(len(p.groups))
	bar := slot * 0.8 / float64(max(1, len(p.series)))
	for g, group := range p.groups {
		left := plotLeft + slot*float64(g) + slot*0.1
		for i, v := range group.bars {
			if math.IsNaN(v) || v <= 0 {
				continue
			}
			at := left + bar*float64(i)
			fmt.Fprintf(&out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s, %s: %s</title></rect>`+"\n", at, y(v), bar*0.92,
				plotTop+plotHeight-y(v), barColors[i%len(barColors)], html.EscapeString(group.label), html.EscapeString(p.series[i]), figure(v))
			label(&out, at+bar*0.46, y(v)-4, 8, "middle", short(v))
		}
		label(&out, left+slot*0.4, plotTop+plotHeight+18, 11, "middle", group.label)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// decades are the powers of ten between which all bars are.
func (p *plot) decades() (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, g := range p.groups {
		for _, v := range g.bars {
			if !math.IsNaN(v) && v > 0 {
				low, high = min(low, math.Floor(math.Log10(v)-0.05)), max(high, math.Ceil(math.Log10(v)))
			}
		}
	}
	if math.IsInf(low, 1) {
		return 0, 1
	}
	return low, max(high, low+1)
}

func label(out *strings.Builder, x, y float64, size int, anchor, text string) {
	fmt.Fprintf(out, `<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="#333">%s</text>`+"\n", x, y, size, anchor, html.EscapeString(text))
}

// short is a figure that fits over a bar.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.1fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.1fk", v/1e3)
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}
