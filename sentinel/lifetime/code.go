package lifetime

import (
	"strconv"
	"strings"

	"github.com/sentinel-shim/sentinel-shim/sentinel/exitcode"
)

// unreadableCode is the exit code of an end that holds none.
const unreadableCode = exitcode.Wrapper

// formatCode returns the content of NAME-terminated.
func formatCode(code int) string { return strconv.Itoa(code) + "\n" }

// parseCode parses the content of NAME-terminated: an exit code from 0 to 255, as one to three decimal
// digits, and at most one newline.
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
