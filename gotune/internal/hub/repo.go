package hub

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// A RepoType is a kind of repository.
type RepoType string

// The kinds of repository that gotune uses.
const (
	ModelRepo   RepoType = "model"
	DatasetRepo RepoType = "dataset"
)

// A Repo names a repository, and a revision in it.
type Repo struct {
	ID       string   // "owner/name"; old public ones are only "name"
	Type     RepoType // default ModelRepo
	Revision string   // branch, tag or commit; default "main"
}

// Model names the model id at revision; an empty revision is "main".
func Model(id, revision string) Repo { return Repo{ID: id, Type: ModelRepo, Revision: revision} }

// Dataset names the data set id at revision; an empty revision is "main".
func Dataset(id, revision string) Repo { return Repo{ID: id, Type: DatasetRepo, Revision: revision} }

// String is e.g. "model owner/name@main".
func (r Repo) String() string { return string(r.typ()) + " " + r.ID + "@" + r.rev() }

func (r Repo) typ() RepoType {
	if r.Type == "" {
		return ModelRepo
	}
	return r.Type
}

func (r Repo) rev() string {
	if r.Revision == "" {
		return "main"
	}
	return r.Revision
}

var (
	repoPart   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$`)
	commitHash = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// ValidID reports whether id has the form "owner/name" or "name" of a Hub
// repository: what a folder path usually has not.
func ValidID(id string) bool {
	parts := strings.Split(id, "/")
	if len(parts) > 2 || strings.Contains(id, "..") || strings.Contains(id, "--") || strings.HasSuffix(id, ".git") {
		return false
	}
	for _, p := range parts {
		if !repoPart.MatchString(p) || strings.HasSuffix(p, ".") || strings.HasSuffix(p, "-") {
			return false
		}
	}
	return true
}

// check validates the name: it becomes part of addresses and of file paths.
func (r Repo) check(op string) error {
	if !ValidID(r.ID) {
		return invalid(op, "repository", "the name "+quoted(r.ID), "OWNER/NAME of letters, digits, '-', '_' and '.'")
	}
	if r.typ() != ModelRepo && r.typ() != DatasetRepo {
		return invalid(op, "repository "+r.ID, "the type "+quoted(string(r.Type)), `"model" or "dataset"`)
	}
	if err := checkPath(r.rev()); err != "" {
		return invalid(op, r.ID, "the revision "+quoted(r.rev())+" "+err, "a branch, tag or commit")
	}
	return nil
}

// checkPath says what is wrong with a name from outside that becomes a relative path.
func checkPath(p string) string {
	if p == "" {
		return "is empty"
	}
	if strings.ContainsAny(p, "\\\x00\n\r:") || strings.HasPrefix(p, "/") {
		return "is not a relative path"
	}
	for _, s := range strings.Split(p, "/") {
		if s == "" || s == "." || s == ".." {
			return "leads out of its folder"
		}
		if len(s) > 255 {
			return "has a part of more than 255 bytes"
		}
	}
	return ""
}

func quoted(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return `"` + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?")) + `"`
}

// urlPrefix is "" for models and "datasets/" for data sets.
func (r Repo) urlPrefix() string {
	if r.typ() == ModelRepo {
		return ""
	}
	return string(r.typ()) + "s/"
}

// api is the address below /api of this repository.
func (c *Client) api(r Repo, rest string) string {
	return c.endpoint() + "/api/" + string(r.typ()) + "s/" + r.ID + rest
}

// quote escapes all but unreserved characters, as Python's urllib does; keep are
// left as they are.
func quote(s, keep string) string {
	var b strings.Builder
	for i := range len(s) {
		ch := s[i]
		if ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || strings.IndexByte("_.-~", ch) >= 0 || strings.IndexByte(keep, ch) >= 0 {
			b.WriteByte(ch)
			continue
		}
		const hex = "0123456789ABCDEF"
		b.WriteByte('%')
		b.WriteByte(hex[ch>>4])
		b.WriteByte(hex[ch&15])
	}
	return b.String()
}

// A RepoInfo is what the Hub says of a repository.
type RepoInfo struct {
	ID      string `json:"id"`
	Commit  string `json:"sha"`
	Private bool   `json:"private"`
}

// Info asks for the repository's current state at its revision. It is
// ErrRepoNotFound when the repository doesn't exist or the token may not see it.
func (c *Client) Info(ctx context.Context, r Repo) (RepoInfo, error) {
	return c.info(ctx, r, nil)
}

func (c *Client) info(ctx context.Context, r Repo, header http.Header) (RepoInfo, error) {
	if err := r.check("look up"); err != nil {
		return RepoInfo{}, err
	}
	rest := ""
	if r.Revision != "" {
		rest = "/revision/" + quote(r.Revision, "")
	}
	var info RepoInfo
	_, err := c.doJSON(ctx, &request{op: "look up", object: r.String(), method: http.MethodGet, url: c.api(r, rest), header: header}, &info)
	if err != nil {
		return RepoInfo{}, err
	}
	if !commitHash.MatchString(info.Commit) {
		return RepoInfo{}, &Error{Op: "look up", Object: r.String(), Found: "the commit " + quoted(info.Commit), Wanted: "40 hexadecimal digits", Kind: ErrProtocol,
			Next: "check HF_ENDPOINT: this may not be a Hub"}
	}
	return info, nil
}

// A RemoteFile is a file of a repository.
type RemoteFile struct {
	Path   string
	Size   int64
	Digest string // sha256 of a large file, git blob id of a regular one
	LFS    bool
}

// Files lists all files of the repository at its revision, in the Hub's order.
func (c *Client) Files(ctx context.Context, r Repo) ([]RemoteFile, error) {
	return c.files(ctx, r, nil)
}

func (c *Client) files(ctx context.Context, r Repo, header http.Header) ([]RemoteFile, error) {
	if err := r.check("list"); err != nil {
		return nil, err
	}
	var out []RemoteFile
	next := c.api(r, "/tree/"+quote(r.rev(), "")) + "?recursive=true&expand=false"
	for next != "" {
		var page []struct {
			Type, Path, OID string
			Size            int64
			LFS             *struct {
				OID  string
				Size int64
			}
		}
		h, err := c.doJSON(ctx, &request{op: "list", object: r.String(), method: http.MethodGet, url: next, header: header}, &page)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			if f.Type != "file" {
				continue
			}
			if bad := checkPath(f.Path); bad != "" {
				return nil, &Error{Op: "list", Object: r.String(), Found: "the file name " + quoted(f.Path) + ", which " + bad, Kind: ErrProtocol,
					Wanted: "relative paths", Next: "don't use this repository"}
			}
			rf := RemoteFile{Path: f.Path, Size: f.Size, Digest: f.OID}
			if f.LFS != nil {
				rf.LFS, rf.Digest, rf.Size = true, f.LFS.OID, f.LFS.Size
			}
			out = append(out, rf)
		}
		if next, err = c.nextPage(h, next); err != nil {
			return nil, err
		}
	}
	return out, nil
}

var linkNext = regexp.MustCompile(`<([^>]+)>\s*;\s*rel="next"`)

// nextPage finds the next page's address in a Link header, on the same origin only.
func (c *Client) nextPage(h http.Header, current string) (string, error) {
	m := linkNext.FindStringSubmatch(h.Get("Link"))
	if m == nil {
		return "", nil
	}
	cur, err := url.Parse(current)
	if err != nil {
		return "", nil
	}
	u, err := cur.Parse(m[1])
	if err != nil || !c.mayAuthorize(u) || u.String() == current {
		return "", &Error{Op: "list", Object: c.endpoint(), Found: "a next page at another place", Kind: ErrProtocol, Next: "check HF_ENDPOINT and proxy settings"}
	}
	return u.String(), nil
}

// Whoami returns the account name of the token. It is not retried: the Hub
// limits it strictly.
func (c *Client) Whoami(ctx context.Context) (string, error) {
	if c.Token.IsZero() {
		return "", &Error{Op: "ask for", Object: "the token's account", Found: "no token", Kind: ErrUnauthorized,
			Next: "set HF_TOKEN to a token from the Hub's page Settings, Access Tokens"}
	}
	var v struct{ Name string }
	_, err := c.doJSON(ctx, &request{op: "ask for", object: "the token's account", method: http.MethodGet, url: c.endpoint() + "/api/whoami-v2", noRetry: true}, &v)
	return v.Name, err
}

// CreateOptions are the choices of CreateRepo.
type CreateOptions struct {
	Private bool // default: public, or what the organization's default is
	ExistOK bool // an existing repository of that name is no error
}

// CreateRepo makes the repository and returns its address. It is ErrConflict when
// it exists, unless o.ExistOK.
func (c *Client) CreateRepo(ctx context.Context, r Repo, o CreateOptions) (string, error) {
	if err := r.check("create"); err != nil {
		return "", err
	}
	owner, name, ok := strings.Cut(r.ID, "/")
	if !ok {
		return "", invalid("create", "repository", "the name "+quoted(r.ID), "OWNER/NAME")
	}
	body := struct {
		Name         string   `json:"name"`
		Organization string   `json:"organization"`
		Visibility   string   `json:"visibility,omitempty"`
		Type         RepoType `json:"type,omitempty"`
	}{Name: name, Organization: owner}
	if o.Private {
		body.Visibility = "private"
	}
	if r.typ() != ModelRepo {
		body.Type = r.typ()
	}
	req := &request{op: "create", object: string(r.typ()) + " " + r.ID, method: http.MethodPost, url: c.endpoint() + "/api/repos/create"}
	if err := req.jsonBody(body); err != nil {
		return "", err
	}
	var v struct{ URL string }
	_, err := c.doJSON(ctx, req, &v)
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusConflict {
		if o.ExistOK {
			return c.endpoint() + "/" + r.urlPrefix() + r.ID, nil
		}
		e.Next = "choose another name, or push to the existing repository"
	}
	if e != nil && e.Status == http.StatusForbidden && o.ExistOK {
		if _, err := c.Info(ctx, Repo{ID: r.ID, Type: r.Type}); err == nil {
			return c.endpoint() + "/" + r.urlPrefix() + r.ID, nil // may write there, but not create
		}
	}
	return v.URL, err
}
