package ecrapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"regexp"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
)

// NewRegistry makes the account's private registry, for pulls. cfg.Images must be set.
func NewRegistry(cfg Config) http.Handler {
	images := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(cfg.Images)
		r.Out.Header.Del("Authorization")
	}}
	return &registry{cfg, images}
}

type registry struct {
	cfg    Config
	images http.Handler
}

// pulled is what a pull asks for: a manifest or a layer of a repository.
var pulled = regexp.MustCompile(`^/v2/([a-z0-9][a-z0-9._/-]*)/(manifests|blobs)/[^/]+$`)

// actions are the rights that it takes.
var actions = map[string]string{"manifests": "ecr:BatchGetImage", "blobs": "ecr:GetDownloadUrlForLayer"}

// ServeHTTP implements [http.Handler].
func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, password, _ := r.BasicAuth()
	principal, err := g.cfg.Identities.ByRegistryPassword(password)
	if name != user || err != nil {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="https://%s.dkr.ecr.%s.amazonaws.com/",service="ecr.amazonaws.com"`, g.cfg.AccountID, g.cfg.Region))
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "Not Authorized")
		return
	}
	if r.URL.Path == "/v2/" {
		return // the password is good
	}
	what := pulled.FindStringSubmatch(r.URL.Path)
	if what == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "Nothing but pulling is done here")
		return
	}
	err = g.cfg.Gate.Caller(principal, g.cfg.Region, r).Authorize(policy.Request{
		Action: actions[what[2]], Resource: "arn:aws:ecr:" + g.cfg.Region + ":" + g.cfg.AccountID + ":repository/" + what[1],
	})
	if err != nil {
		refuse(w, http.StatusForbidden, "DENIED", err.Error())
		return
	}
	g.images.ServeHTTP(w, r)
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
