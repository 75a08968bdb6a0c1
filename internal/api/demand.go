package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/mvcc"
)

// tokenHeader asks for a value that contains a transaction.
const tokenHeader = "Freshet-After"

// demandOf reads what a request asks of its value, or says what is wrong with it.
func demandOf(h http.Header) (d Demand, bad *problem) {
	d = cacheControl(h.Values("Cache-Control"))
	switch tokens := h.Values(tokenHeader); len(tokens) {
	case 0:
	case 1:
		token, err := mvcc.ParseToken(strings.TrimSpace(tokens[0]))
		if err != nil {
			return d, &problem{
				Type: problemToken, Title: "Malformed token", Status: http.StatusBadRequest,
				Detail: "Freshet-After takes a token: SYSTEM.TIMELINE.XID, or SYSTEM.TIMELINE.XID.LSN.",
			}
		}
		d.After = token
	default:
		return d, &problem{
			Type: problemToken, Title: "Several tokens", Status: http.StatusBadRequest, Detail: "Freshet-After may be given once.",
		}
	}
	return d, nil
}

// cacheControl judges a request's Cache-Control (RFC 9111, 5.2.1): no-cache demands that the database is asked, and max-age
// bounds staleness, in whole seconds. What is not a number of seconds is taken for the strictest, and of several the strictest
// counts (4.2.1). Nothing cached can be shown to miss nothing at all, so that max-age=0 demands what no-cache does.
func cacheControl(lines []string) (d Demand) {
	directives(lines, func(name, argument string) {
		switch name {
		case "no-cache":
			d.Revalidate = true
		case "max-age":
			bound := seconds(argument)
			if !d.Bounded || bound < d.MaxStale {
				d.Bounded, d.MaxStale = true, bound
			}
		}
	})
	d.Revalidate = d.Revalidate || d.Bounded && d.MaxStale == 0
	return d
}

// seconds reads delta-seconds (RFC 9111, 1.2.2); more than a year is a year.
func seconds(text string) time.Duration {
	const year = 365 * 24 * 60 * 60
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil && text != "" && strings.Trim(text, "0123456789") == "":
		n = year
	case err != nil:
		n = 0
	}
	return time.Duration(min(n, year)) * time.Second
}
