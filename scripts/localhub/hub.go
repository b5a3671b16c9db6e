package main

import (
	"bufio"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// hub is the server's state, which is all on disk.
type hub struct {
	dir, token string
	mu         sync.Mutex // one commit at a time
}

var (
	namePart = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	objectID = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// largeFile is the size from which a file goes to LFS, whatever its name.
const largeFile = 10 << 20

func openHub(dir, token string) (*hub, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &hub{dir: abs, token: token}, os.MkdirAll(filepath.Join(abs, ".hub", "objects"), 0o755)
}

// failure is an error with its HTTP status.
type failure struct {
	status int
	text   string
}

func (f failure) Error() string { return f.text }

func (h *hub) handler() http.Handler {
	// Three of them, since /{owner}/{name} overlaps with the other two.
	api, objects, repos := http.NewServeMux(), http.NewServeMux(), http.NewServeMux()
	on := func(m *http.ServeMux, pattern string, f func(http.ResponseWriter, *http.Request) (any, error)) {
		m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token && !strings.HasPrefix(r.URL.Path, "/.objects/") {
				respond(w, nil, failure{http.StatusUnauthorized, "Invalid credentials in Authorization header"})
				return
			}
			v, err := f(w, r)
			if v != nil || err != nil {
				respond(w, v, err)
			}
			log.Printf("%s %s", r.Method, r.URL.Path)
		})
	}
	on(api, "GET /api/whoami-v2", h.whoami)
	on(api, "POST /api/validate-yaml", func(http.ResponseWriter, *http.Request) (any, error) {
		return map[string]any{"errors": []any{}, "warnings": []any{}}, nil
	})
	on(api, "POST /api/repos/create", h.create)
	on(api, "GET /api/models/{owner}/{name}", h.info)
	on(api, "GET /api/models/{owner}/{name}/revision/{rev}", h.info)
	on(api, "GET /api/models/{owner}/{name}/tree/{rev}", h.tree)
	on(api, "POST /api/models/{owner}/{name}/preupload/{rev}", h.preupload)
	on(api, "POST /api/models/{owner}/{name}/commit/{rev}", h.commit)
	on(repos, "POST /{owner}/{name}/info/lfs/objects/batch", h.batch)
	on(objects, "PUT /.objects/{oid}", h.put)
	on(objects, "POST /.objects/{oid}/verify", h.verify)
	on(repos, "GET /{owner}/{name}/resolve/{rev}/{path...}", h.resolve)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/api/"):
			api.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/.objects/"):
			objects.ServeHTTP(w, r)
		default:
			repos.ServeHTTP(w, r)
		}
	})
}

func respond(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError
		var f failure
		if errors.As(err, &f) {
			status = f.status
		}
		log.Printf("answered %d: %v", status, err)
		v = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func read(r *http.Request, v any) error {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		return failure{http.StatusBadRequest, "request body: " + err.Error()}
	}
	return nil
}

// repo is the folder of the request's repository.
func (h *hub) repo(r *http.Request) (dir, id string, err error) {
	owner, name := r.PathValue("owner"), strings.TrimSuffix(r.PathValue("name"), ".git")
	id = owner + "/" + name
	dir = filepath.Join(h.dir, owner, name)
	if !namePart.MatchString(owner) || !namePart.MatchString(name) {
		return "", "", failure{http.StatusBadRequest, "not a repository name: " + id}
	}
	if _, err := os.Stat(dir); err != nil {
		return "", "", failure{http.StatusNotFound, "Repository not found: " + id}
	}
	return dir, id, nil
}

// inside is the place of a repository's file, which must not lead out of it.
func inside(dir, path string) (string, error) {
	if !fs.ValidPath(path) || path == "." {
		return "", failure{http.StatusBadRequest, fmt.Sprintf("not a path inside a repository: %q", path)}
	}
	return filepath.Join(dir, filepath.FromSlash(path)), nil
}

func (h *hub) whoami(http.ResponseWriter, *http.Request) (any, error) {
	return map[string]any{"type": "user", "name": "local", "orgs": []any{}, "auth": map[string]any{"accessToken": map[string]string{"role": "write"}}}, nil
}

func (h *hub) create(_ http.ResponseWriter, r *http.Request) (any, error) {
	var q struct{ Name, Organization, Type string }
	if err := read(r, &q); err != nil {
		return nil, err
	}
	if q.Organization == "" {
		q.Organization = "local"
	}
	if !namePart.MatchString(q.Name) || !namePart.MatchString(q.Organization) || q.Type != "" && q.Type != "model" {
		return nil, failure{http.StatusBadRequest, "not a model repository's name"}
	}
	id := q.Organization + "/" + q.Name
	dir := filepath.Join(h.dir, q.Organization, q.Name)
	if _, err := os.Stat(dir); err == nil {
		return nil, failure{http.StatusConflict, "You already created this model repo: " + id}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return map[string]string{"url": base(r) + "/" + id, "name": id, "id": id}, nil
}

func base(r *http.Request) string { return "http://" + r.Host }

// entry is one file of a repository.
type entry struct {
	path, sha256, blob string
	size               int64
	large              bool
}

// entries lists a repository, in order of path.
func entries(dir string) (out []entry, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		e, err := describe(path)
		e.path = filepath.ToSlash(rel)
		e.large = isLarge(e.path, e.size)
		out = append(out, e)
		return err
	})
	return out, err
}

// describe computes a file's two digests: sha256, and git's blob id.
func describe(path string) (e entry, err error) {
	f, err := os.Open(path)
	if err != nil {
		return e, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return e, err
	}
	s2, s1 := sha256.New(), sha1.New()
	fmt.Fprintf(s1, "blob %d\x00", st.Size())
	if _, err := io.Copy(io.MultiWriter(s2, s1), f); err != nil {
		return e, err
	}
	return entry{sha256: hex.EncodeToString(s2.Sum(nil)), blob: hex.EncodeToString(s1.Sum(nil)), size: st.Size()}, nil
}

func isLarge(path string, size int64) bool {
	if size == 0 {
		return false
	}
	for _, suffix := range []string{".safetensors", ".model", ".bin", ".gguf", ".parquet"} {
		if strings.HasSuffix(path, suffix) {
			return true
		}
	}
	return size >= largeFile
}

// head is the repository's state as a commit id: a digest of its files.
func head(list []entry) string {
	s := sha1.New()
	for _, e := range list {
		fmt.Fprintf(s, "%s %s\n", e.path, e.sha256)
	}
	return hex.EncodeToString(s.Sum(nil))
}

func (h *hub) info(_ http.ResponseWriter, r *http.Request) (any, error) {
	dir, id, err := h.repo(r)
	if err != nil {
		return nil, err
	}
	list, err := entries(dir)
	if err != nil {
		return nil, err
	}
	siblings := []map[string]string{}
	for _, e := range list {
		siblings = append(siblings, map[string]string{"rfilename": e.path})
	}
	return map[string]any{"id": id, "modelId": id, "sha": head(list), "private": true, "siblings": siblings}, nil
}

func (h *hub) tree(_ http.ResponseWriter, r *http.Request) (any, error) {
	dir, _, err := h.repo(r)
	if err != nil {
		return nil, err
	}
	list, err := entries(dir)
	if err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, e := range list {
		f := map[string]any{"type": "file", "path": e.path, "size": e.size, "oid": e.blob}
		if e.large {
			f["lfs"] = map[string]any{"oid": e.sha256, "size": e.size, "pointerSize": 134}
		}
		out = append(out, f)
	}
	return out, nil
}

func (h *hub) preupload(_ http.ResponseWriter, r *http.Request) (any, error) {
	dir, _, err := h.repo(r)
	if err != nil {
		return nil, err
	}
	var q struct {
		Files []struct {
			Path string
			Size int64
		}
	}
	if err := read(r, &q); err != nil {
		return nil, err
	}
	out := []map[string]any{}
	for _, f := range q.Files {
		at, err := inside(dir, f.Path)
		if err != nil {
			return nil, err
		}
		answer := map[string]any{"path": f.Path, "uploadMode": "regular", "shouldIgnore": false}
		large := isLarge(f.Path, f.Size)
		if large {
			answer["uploadMode"] = "lfs"
		}
		if e, err := describe(at); err == nil { // so that unchanged files are not sent again
			answer["oid"] = e.blob
			if large {
				answer["oid"] = e.sha256
			}
		}
		out = append(out, answer)
	}
	return map[string]any{"files": out, "commitOid": nil}, nil
}

func (h *hub) object(oid string) string { return filepath.Join(h.dir, ".hub", "objects", oid) }

func (h *hub) batch(_ http.ResponseWriter, r *http.Request) (any, error) {
	if _, _, err := h.repo(r); err != nil {
		return nil, err
	}
	var q struct {
		Operation string
		Objects   []struct {
			OID  string
			Size int64
		}
	}
	if err := read(r, &q); err != nil {
		return nil, err
	}
	if q.Operation != "upload" {
		return nil, failure{http.StatusBadRequest, "only uploads go through LFS here"}
	}
	out := []map[string]any{}
	for _, o := range q.Objects {
		if !objectID.MatchString(o.OID) {
			return nil, failure{http.StatusUnprocessableEntity, "not a sha256: " + o.OID}
		}
		answer := map[string]any{"oid": o.OID, "size": o.Size}
		if st, err := os.Stat(h.object(o.OID)); err != nil || st.Size() != o.Size {
			at := base(r) + "/.objects/" + o.OID
			answer["actions"] = map[string]any{"upload": map[string]any{"href": at}, "verify": map[string]any{"href": at + "/verify"}}
		}
		out = append(out, answer)
	}
	return map[string]any{"transfer": "basic", "objects": out}, nil
}

func (h *hub) put(_ http.ResponseWriter, r *http.Request) (any, error) {
	oid := r.PathValue("oid")
	if !objectID.MatchString(oid) {
		return nil, failure{http.StatusBadRequest, "not a sha256: " + oid}
	}
	f, err := os.CreateTemp(filepath.Dir(h.object(oid)), ".part-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	s := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, s), r.Body)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(s.Sum(nil)); got != oid {
		return nil, failure{http.StatusBadRequest, "the bytes have sha256 " + got + ", and " + oid + " was announced"}
	}
	return map[string]string{"oid": oid}, os.Rename(f.Name(), h.object(oid))
}

func (h *hub) verify(_ http.ResponseWriter, r *http.Request) (any, error) {
	var q struct {
		OID  string
		Size int64
	}
	if err := read(r, &q); err != nil {
		return nil, err
	}
	st, err := os.Stat(h.object(r.PathValue("oid")))
	if err != nil || q.OID != r.PathValue("oid") || st.Size() != q.Size {
		return nil, failure{http.StatusNotFound, "object " + q.OID + " is not here as announced"}
	}
	return map[string]any{}, nil
}

func (h *hub) resolve(w http.ResponseWriter, r *http.Request) (any, error) {
	dir, _, err := h.repo(r)
	if err != nil {
		return nil, err
	}
	at, err := inside(dir, r.PathValue("path"))
	if err != nil {
		return nil, err
	}
	e, err := describe(at)
	if err != nil {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		return nil, failure{http.StatusNotFound, "Entry not found"}
	}
	list, err := entries(dir)
	if err != nil {
		return nil, err
	}
	w.Header().Set("X-Repo-Commit", head(list))
	w.Header().Set("ETag", `"`+e.blob+`"`)
	if isLarge(r.PathValue("path"), e.size) {
		w.Header().Set("X-Linked-Etag", `"`+e.sha256+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(e.size))
		w.Header().Set("ETag", `"`+e.sha256+`"`)
	}
	http.ServeFile(w, r, at)
	return nil, nil
}

// operation is a line of a commit.
type operation struct {
	Key   string
	Value struct {
		Summary, Content, Path, Encoding, Algo, OID string
		Size                                        int64
	}
}

func (h *hub) commit(_ http.ResponseWriter, r *http.Request) (any, error) {
	dir, id, err := h.repo(r)
	if err != nil {
		return nil, err
	}
	if rev := r.PathValue("rev"); rev != "main" {
		return nil, failure{http.StatusNotFound, "Revision not found: " + rev}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := bufio.NewReader(r.Body)
	summary, files := "", 0
	for {
		line, err := lines.ReadBytes('\n')
		if len(strings.TrimSpace(string(line))) > 0 {
			var o operation
			if e := json.Unmarshal(line, &o); e != nil {
				return nil, failure{http.StatusBadRequest, "a line of the commit: " + e.Error()}
			}
			if o.Key == "header" {
				summary = o.Value.Summary
			} else {
				files++
				if e := h.apply(dir, o); e != nil {
					return nil, e
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if summary == "" {
		return nil, failure{http.StatusBadRequest, "a commit without a summary"}
	}
	list, err := entries(dir)
	if err != nil {
		return nil, err
	}
	oid := head(list)
	record, err := json.Marshal(map[string]any{"time": time.Now().UTC(), "repo": id, "commit": oid, "summary": summary, "operations": files})
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(h.dir, ".hub", "commits.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(append(record, '\n'))
	if e := f.Close(); err == nil {
		err = e
	}
	return map[string]any{"success": true, "commitOid": oid, "commitUrl": base(r) + "/" + id + "/commit/" + oid, "hookOutput": ""}, err
}

// apply does one operation of a commit.
func (h *hub) apply(dir string, o operation) error {
	at, err := inside(dir, o.Value.Path)
	if err != nil {
		return err
	}
	switch o.Key {
	case "file":
		data, err := base64.StdEncoding.DecodeString(o.Value.Content)
		if err != nil || o.Value.Encoding != "base64" {
			return failure{http.StatusBadRequest, o.Value.Path + " is not base64"}
		}
		return replace(at, func(temp string) error { return os.WriteFile(temp, data, 0o644) })
	case "lfsFile":
		st, err := os.Stat(h.object(filepath.Base(o.Value.OID)))
		if err != nil || o.Value.Algo != "sha256" || st.Size() != o.Value.Size {
			return failure{http.StatusBadRequest, o.Value.Path + ": its object was not uploaded"}
		}
		return replace(at, func(temp string) error { return os.Link(h.object(o.Value.OID), temp) })
	case "deletedFile":
		return os.Remove(at)
	}
	return failure{http.StatusBadRequest, "an operation of the unknown kind " + o.Key}
}

// replace makes a file under a temporary name and puts it in place.
func replace(at string, write func(temp string) error) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	temp := at + ".part"
	_ = os.Remove(temp)
	if err := write(temp); err != nil {
		return err
	}
	return os.Rename(temp, at)
}
