package sidecar

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/control/consumer"
)

// answered is what a sidecar makes of an answer to three records.
func answered(order Order, buries bool, status int, header, body string) ([]error, error) {
	s := &Sidecar{cfg: Config{Order: order, To: "http://127.0.0.1:1/r"}, buries: buries}
	resp := &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	name, value, _ := strings.Cut(header, ": ")
	resp.Header.Set(name, value)
	return s.answer(resp, 3)
}

// said is an outcome in short.
func said(err error) string {
	var again *consumer.Again
	switch {
	case err == nil:
		return "handled"
	case hopeless(err):
		return "refused"
	case errors.As(err, &again) && again.Untried:
		return "untried " + again.After.String()
	case errors.As(err, &again):
		return "again " + again.After.String()
	}
	return "failed"
}

func TestWhatAnAnswerMeans(t *testing.T) {
	for _, tc := range []struct {
		status       int
		header, body string
		whole        string // of all three
		each         [3]string
	}{
		{200, "", "", "", [3]string{"handled", "handled", "handled"}},
		{204, "", "", "", [3]string{"handled", "handled", "handled"}},
		{200, "Content-Type: text/plain", "OK", "", [3]string{"handled", "handled", "handled"}},
		{200, "Content-Type: application/json", `{}`, "", [3]string{"handled", "handled", "handled"}},
		{200, "", `{"results":[{"index":1,"outcome":"retry","after_ms":50,"reason":"locked"}]}`, "", [3]string{"handled", "again 50ms", "untried 0s"}},
		{200, "", `{"results":[{"index":0,"outcome":"retry"},{"index":2,"outcome":"handled"}]}`, "", [3]string{"again 0s", "untried 0s", "handled"}},
		{200, "", `{"results":[{"index":0,"outcome":"dead_letter"}]}`, "", [3]string{"refused", "handled", "handled"}},
		{200, "Content-Type: application/json", `[]`, "failed", [3]string{}},
		{200, "", `{"status":"ok"}`, "failed", [3]string{}},
		{200, "", `{"results":[]} {}`, "failed", [3]string{}},
		{200, "", `{"results":[{"index":3,"outcome":"retry"}]}`, "failed", [3]string{}},
		{200, "", `{"results":[{"index":0,"outcome":"retry"},{"index":0,"outcome":"handled"}]}`, "failed", [3]string{}},
		{200, "", `{"results":[{"index":0,"outcome":"later"}]}`, "failed", [3]string{}},
		{200, "", `{"results":[{"index":0,"outcome":"handled","after_ms":5}]}`, "failed", [3]string{}},
		{200, "", `{"results":[{"index":0,"outcome":"retry","after_ms":-5}]}`, "failed", [3]string{}},
		{200, "", "{" + strings.Repeat(" ", answerBytes) + "}", "failed", [3]string{}},
		{302, "Location: /", "", "failed", [3]string{}},
		{400, "", "bad", "refused", [3]string{}},
		{409, "", "", "refused", [3]string{}},
		{413, "", "", "refused", [3]string{}},
		{422, "", "", "refused", [3]string{}},
		{401, "", "", "failed", [3]string{}},
		{404, "", "", "failed", [3]string{}},
		{408, "", "", "failed", [3]string{}},
		{429, "", "", "untried 0s", [3]string{}},
		{429, "Retry-After: 2", "", "untried 2s", [3]string{}},
		{503, "Retry-After: 86400", "", "untried 5m0s", [3]string{}},
		{503, "Retry-After: -1", "", "untried 0s", [3]string{}},
		{500, "", "boom", "failed", [3]string{}},
	} {
		errs, err := answered(ByPartition, true, tc.status, tc.header, tc.body)
		if tc.whole != "" {
			require.Error(t, err, tc)
			require.Equal(t, tc.whole, said(err), tc)
			continue
		}
		require.NoError(t, err, tc)
		require.Equal(t, tc.each, [3]string{said(errs[0]), said(errs[1]), said(errs[2])}, tc)
	}
	_, err := answered(ByPartition, true, 503, "Retry-After: "+time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), "")
	var again *consumer.Again
	require.ErrorAs(t, err, &again)
	require.InDelta(t, 60, again.After.Seconds(), 5)
}

// By key, or with no place for what is hopeless, other records are held up by
// what comes again: by key none, by partition those behind it.
func TestWhoWaitsForWhatComesAgain(t *testing.T) {
	body := `{"results":[{"index":0,"outcome":"dead_letter","reason":"no customer"}]}`
	errs, err := answered(ByKey, false, 200, "", body)
	require.NoError(t, err)
	require.Equal(t, "handled", said(errs[1]))
	errs, err = answered(ByPartition, false, 200, "", body)
	require.NoError(t, err)
	require.Equal(t, "untried 0s", said(errs[1]))
	require.ErrorContains(t, errs[0], "no customer")
}

func TestAnErrorSaysWhatTheServiceSaid(t *testing.T) {
	_, err := answered(ByPartition, true, 500, "", "no\nluck \xff"+strings.Repeat("x", 1000))
	require.ErrorContains(t, err, "http://127.0.0.1:1/r answers")
	require.ErrorContains(t, err, "no luck x")
	require.Less(t, len(err.Error()), 500)
}
