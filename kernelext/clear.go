package kernelext

import (
	"regexp"
	"strings"
)

// erase is the sequences by which a program clears its terminal: those of !clear and of most progress displays.
// The cursor's way home, and the erasing of what was scrolled out, may stand on either side.
var erase = regexp.MustCompile(`(?:\x1b\[(?:[01](?:;[01])?)?H)*\x1b(?:\[2J|c)(?:\x1b\[(?:[23]J|(?:[01](?:;[01])?)?H))*`)

// cleared takes out of a stream's text all up to its last erase sequence. A notebook shows such a program as a
// terminal would: the cell's output is cleared when the next one comes.
func cleared(text string) (rest string, ok bool) {
	if !strings.Contains(text, "\x1b") { // a flood is not searched the slow way
		return text, false
	}
	all := erase.FindAllStringIndex(text, -1)
	if all == nil {
		return text, false
	}
	return text[all[len(all)-1][1]:], true
}

// clear asks the clients to drop the cell's output, at once or when the next output comes: so a display that is
// drawn again does not flicker.
func (o *outputs) clear(wait bool) {
	o.kernel.publish("clear_output", o.cell.header, object{"wait": wait})
	o.erase, o.toClear = false, wait
}
