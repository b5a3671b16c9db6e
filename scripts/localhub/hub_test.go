package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPushAndServe(t *testing.T) {
	dir := t.TempDir()
	h, err := openHub(dir, "secret")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h.handler())
	defer s.Close()
	call := func(method, path, body string, want int) map[string]any {
		t.Helper()
		if !strings.HasPrefix(path, "http") {
			path = s.URL + path
		}
		q, err := http.NewRequest(method, path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer secret")
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != want {
			t.Fatalf("%s %s: %d %s, want %d", method, path, r.StatusCode, b, want)
		}
		var v map[string]any
		if json.Unmarshal(b, &v) != nil {
			return map[string]any{"body": string(b), "header": r.Header}
		}
		return v
	}
	if r, err := http.Get(s.URL + "/api/whoami-v2"); err != nil || r.StatusCode != 401 {
		t.Fatalf("without a token: %v, %v", r, err)
	}
	call("POST", "/api/repos/create", `{"name":"m","organization":"me"}`, 200)
	call("POST", "/api/repos/create", `{"name":"m","organization":"me"}`, 409)
	call("POST", "/api/repos/create", `{"name":"../m","organization":"me"}`, 400)
	call("GET", "/api/models/me/nix", "", 404)

	weights := bytes.Repeat([]byte("w"), 1000)
	oid := fmt.Sprintf("%x", sha256.Sum256(weights))
	pre := call("POST", "/api/models/me/m/preupload/main", `{"files":[{"path":"model.safetensors","size":1000},{"path":"config.json","size":2}]}`, 200)
	if got := fmt.Sprint(pre["files"]); !strings.Contains(got, "uploadMode:lfs") || !strings.Contains(got, "uploadMode:regular") {
		t.Errorf("preupload: %s", got)
	}
	call("POST", "/api/models/me/m/preupload/main", `{"files":[{"path":"../../x","size":1}]}`, 400)
	batch := fmt.Sprintf(`{"operation":"upload","objects":[{"oid":%q,"size":1000}]}`, oid)
	b := call("POST", "/me/m.git/info/lfs/objects/batch", batch, 200)
	upload := b["objects"].([]any)[0].(map[string]any)["actions"].(map[string]any)["upload"].(map[string]any)["href"].(string)
	commit := func(want int, ops ...string) map[string]any {
		t.Helper()
		return call("POST", "/api/models/me/m/commit/main", strings.Join(append([]string{`{"key":"header","value":{"summary":"first"}}`}, ops...), "\n"), want)
	}
	lfs := fmt.Sprintf(`{"key":"lfsFile","value":{"path":"model.safetensors","algo":"sha256","oid":%q,"size":1000}}`, oid)
	file := fmt.Sprintf(`{"key":"file","value":{"path":"config.json","encoding":"base64","content":%q}}`, base64.StdEncoding.EncodeToString([]byte("{}")))
	commit(400, lfs)
	call("PUT", upload, "other bytes", 400)
	call("PUT", upload, string(weights), 200)
	call("POST", upload+"/verify", fmt.Sprintf(`{"oid":%q,"size":999}`, oid), 404)
	call("POST", upload+"/verify", fmt.Sprintf(`{"oid":%q,"size":1000}`, oid), 200)
	commit(400, `{"key":"file","value":{"path":"/etc/x","encoding":"base64","content":""}}`)
	made := commit(200, lfs, file)
	if info := call("GET", "/api/models/me/m/revision/main", "", 200); info["sha"] != made["commitOid"] {
		t.Errorf("revision %v after commit %v", info["sha"], made["commitOid"])
	}
	if got, err := os.ReadFile(filepath.Join(dir, "me", "m", "model.safetensors")); err != nil || !bytes.Equal(got, weights) {
		t.Errorf("the pushed weights: %d bytes, %v", len(got), err)
	}
	got := call("GET", "/me/m/resolve/main/model.safetensors", "", 200)
	if head := got["header"].(http.Header); got["body"] != string(weights) || head.Get("X-Linked-Etag") != `"`+oid+`"` || head.Get("X-Repo-Commit") != made["commitOid"] {
		t.Errorf("resolve: %v", head)
	}
	call("GET", "/me/m/resolve/main/nix", "", 404)
	commit(200, `{"key":"deletedFile","value":{"path":"config.json"}}`)
	if _, err := os.Stat(filepath.Join(dir, "me", "m", "config.json")); err == nil {
		t.Error("a deleted file is still there")
	}
	if b := call("POST", "/me/m.git/info/lfs/objects/batch", batch, 200); strings.Contains(fmt.Sprint(b), "upload") {
		t.Errorf("an object that is here is asked for again: %v", b)
	}
}
