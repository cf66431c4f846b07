package ecrapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
)

// newRegistry makes the account's private registry.
func newRegistry(a *api) http.Handler {
	images := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(a.cfg.Images)
			r.Out.Header.Del("Authorization")
			if r.In.Method == http.MethodPost {
				// Layers come from nowhere but who pushes them: another repository's may be none of the caller's.
				r.Out.URL.RawQuery = ""
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if err := stayHere(resp, a.cfg.Images); err != nil {
				return err
			}
			return a.noteManifest(resp)
		},
	}
	return &registry{a, images}
}

type registry struct {
	*api
	images http.Handler
}

// What there is in a repository. The first group is its name, the second what is asked for.
var (
	manifestPath = regexp.MustCompile(`^/v2/([a-z0-9][a-z0-9._/-]*)/manifests/([^/]+)$`)
	layerPath    = regexp.MustCompile(`^/v2/([a-z0-9][a-z0-9._/-]*)/blobs/([a-z0-9]+:[0-9a-f]+)$`)
	uploadsPath  = regexp.MustCompile(`^/v2/([a-z0-9][a-z0-9._/-]*)/blobs/uploads/()$`)
	uploadPath   = regexp.MustCompile(`^/v2/([a-z0-9][a-z0-9._/-]*)/blobs/uploads/([^/]+)$`)
)

// rights are what can be done there, and the action that it takes.
var rights = []struct {
	method string
	path   *regexp.Regexp
	action string
}{
	{http.MethodGet, manifestPath, "ecr:BatchGetImage"},
	{http.MethodHead, manifestPath, "ecr:BatchGetImage"},
	{http.MethodPut, manifestPath, "ecr:PutImage"},
	{http.MethodGet, layerPath, "ecr:GetDownloadUrlForLayer"},
	{http.MethodHead, layerPath, "ecr:BatchCheckLayerAvailability"},
	{http.MethodPost, uploadsPath, "ecr:InitiateLayerUpload"},
	{http.MethodPatch, uploadPath, "ecr:UploadLayerPart"},
	{http.MethodPut, uploadPath, "ecr:CompleteLayerUpload"},
}

// asked says which repository a request is about, what of it, and the right that it takes; "" if nobody may.
func asked(r *http.Request) (repository, what, action string) {
	for _, can := range rights {
		if m := can.path.FindStringSubmatch(r.URL.Path); m != nil && can.method == r.Method {
			return m[1], m[2], can.action
		}
	}
	return "", "", ""
}

// ServeHTTP implements [http.Handler].
func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, password, _ := r.BasicAuth()
	principal, err := g.cfg.Identities.ByRegistryPassword(password)
	if name != user || err != nil {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="https://%s/",service="ecr.amazonaws.com"`, g.host(g.cfg.AccountID)))
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "Not Authorized")
		return
	}
	if r.URL.Path == "/v2/" {
		return // the password is good
	}
	repository, what, action := asked(r)
	if action == "" {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "Nothing but pushing and pulling is done here")
		return
	}
	if err := g.cfg.Gate.Caller(principal, g.cfg.Region, r).Authorize(policy.Request{Action: action, Resource: g.arn(repository)}); err != nil {
		refuse(w, http.StatusForbidden, "DENIED", err.Error())
		return
	}
	repo, ok := g.store.Now()[repository]
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", g.notFound(repository))
		return
	}
	if action == "ecr:BatchGetImage" && !slices.Contains(repo.Manifests, what) {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "Requested image not found")
		return
	}
	g.images.ServeHTTP(w, r)
}

// stayHere takes the store's own address out of where an upload goes on.
func stayHere(resp *http.Response, images *url.URL) error {
	location, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return nil
	}
	if err != nil {
		return err
	}
	if location.Host != images.Host {
		return fmt.Errorf("the store of images leads to %s", location.Host)
	}
	location.Scheme, location.Host = "", ""
	resp.Header.Set("Location", location.String())
	return nil
}

// noteManifest notes what was pushed, by tag and by digest.
func (a *api) noteManifest(resp *http.Response) error {
	name, reference, action := asked(resp.Request)
	if action != "ecr:PutImage" || resp.StatusCode != http.StatusCreated {
		return nil
	}
	return a.store.Change(func(all *repositories) error {
		for _, r := range []string{reference, resp.Header.Get("Docker-Content-Digest")} {
			if err := all.pushed(name, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// refuse answers as registries do.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	// The client may be gone.
	_ = json.NewEncoder(w).Encode(map[string][]problem{"errors": {{code, message}}})
}
