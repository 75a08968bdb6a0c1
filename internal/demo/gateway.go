package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// gateway reads over HTTP, as a service in any language would.
type gateway struct {
	base   string
	client *http.Client
}

func newGateway(listen string) *gateway {
	return &gateway{
		base:   "http://" + listen,
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
}

type reply struct {
	status int
	cache  string // Freshet-Status
	body   []byte
}

func (g *gateway) get(ctx context.Context, path string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.base+path, http.NoBody)
	if err != nil {
		return reply{}, fmt.Errorf("ask gateway: %w", err)
	}
	response, err := g.client.Do(request)
	if err != nil {
		return reply{}, fmt.Errorf("ask gateway: %w", err)
	}
	body, err := io.ReadAll(response.Body)
	if closing := response.Body.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return reply{}, fmt.Errorf("read gateway's answer: %w", err)
	}
	return reply{status: response.StatusCode, cache: response.Header.Get("Freshet-Status"), body: body}, nil
}

// read is the JSON of an entry, decoded; found is false for a row that is not there.
func (g *gateway) read(ctx context.Context, entry string, id int64, into any) (hit, found bool, err error) {
	answer, err := g.get(ctx, "/v1/entries/"+entry+"/"+strconv.FormatInt(id, 10))
	switch {
	case err != nil:
		return false, false, err
	case answer.status == http.StatusNotFound:
		return answer.cache == "hit", false, nil
	case answer.status != http.StatusOK:
		return false, false, fmt.Errorf("gateway answers %d: %s", answer.status, answer.body)
	}
	if err := json.Unmarshal(answer.body, into); err != nil {
		return false, false, fmt.Errorf("decode gateway's answer: %w", err)
	}
	return answer.cache == "hit", true, nil
}

func (g *gateway) price(ctx context.Context, id int64) (string, error) {
	var p product
	_, found, err := g.read(ctx, "product", id, &p)
	if err == nil && !found {
		return absent, nil
	}
	return p.Price.String(), err
}

func (g *gateway) profile(ctx context.Context, id int64) (profile, error) {
	var p profile
	_, found, err := g.read(ctx, "user_profile", id, &p)
	if err == nil && !found {
		err = fmt.Errorf("user %d is not found", id)
	}
	return p, err
}
