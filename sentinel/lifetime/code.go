package lifetime

import (
	"strconv"
	"strings"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// unreadableCode is what an end counts as that does not say its code.
const unreadableCode = exitcode.Wrapper

// formatCode is the content of NAME-terminated.
func formatCode(code int) string { return strconv.Itoa(code) + "\n" }

// parseCode reads the content of NAME-terminated: an exit code in decimal, from
// 0 to 255, and nothing else but one newline at its end.
func parseCode(content string) (code int, ok bool) {
	digits := strings.TrimSuffix(content, "\n")
	if len(digits) < 1 || len(digits) > 3 {
		return 0, false
	}
	for _, digit := range []byte(digits) {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		code = 10*code + int(digit-'0')
	}
	return code, code <= exitcode.Max
}
