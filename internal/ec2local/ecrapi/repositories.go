package ecrapi

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// repositories are the account's, by name.
type repositories map[string]repository

type repository struct {
	Created time.Time
	// Manifests are the tags and digests that were pushed.
	Manifests []string
}

// Clone implements [statefile.State].
func (r repositories) Clone() repositories { return maps.Clone(r) }

// pushed notes that a manifest was pushed under a tag or digest.
func (r repositories) pushed(name, reference string) error {
	repo, ok := r[name]
	if !ok {
		return fmt.Errorf("repository %s was deleted meanwhile", name)
	}
	if !slices.Contains(repo.Manifests, reference) {
		repo.Manifests = append(slices.Clone(repo.Manifests), reference)
	}
	r[name] = repo
	return nil
}

var goodName = regexp.MustCompile(`^([a-z0-9]+([._-][a-z0-9]+)*/)*[a-z0-9]+([._-][a-z0-9]+)*$`)

// The lengths that a repository's name may have.
const minName, maxName = 2, 256

type repositoryAnswer struct {
	ARN        string        `json:"repositoryArn"`
	RegistryID string        `json:"registryId"`
	Name       string        `json:"repositoryName"`
	URI        string        `json:"repositoryUri"`
	Created    service.Epoch `json:"createdAt"`
	Mutability string        `json:"imageTagMutability"`
}

type oneRepository struct {
	Repository repositoryAnswer `json:"repository"`
}

func (a *api) arn(name string) string {
	return "arn:aws:ecr:" + a.cfg.Region + ":" + a.cfg.AccountID + ":repository/" + name
}

func (a *api) shown(name string, r repository) repositoryAnswer {
	return repositoryAnswer{
		ARN: a.arn(name), RegistryID: a.cfg.AccountID, Name: name, URI: a.host(a.cfg.AccountID) + "/" + name,
		Created: service.Epoch(r.Created), Mutability: "MUTABLE",
	}
}

func (a *api) notFound(name string) string {
	return fmt.Sprintf("The repository with name '%s' does not exist in the registry with id '%s'", name, a.cfg.AccountID)
}

type createRepositoryRequest struct {
	Name string `json:"repositoryName"`
}

func (a *api) createRepository(c *service.Call, in *createRepositoryRequest) (*oneRepository, error) {
	if err := c.Authorize(a.arn(in.Name), nil); err != nil {
		return nil, err
	}
	if len(in.Name) < minName || len(in.Name) > maxName || !goodName.MatchString(in.Name) {
		return nil, invalid("Invalid parameter at 'repositoryName' failed to satisfy constraint: 'must satisfy regular expression \"%s\"'", goodName)
	}
	made := repository{Created: a.cfg.Now()}
	err := a.store.Change(func(all *repositories) error {
		if _, ok := (*all)[in.Name]; ok {
			return service.Errorf(http.StatusBadRequest, "RepositoryAlreadyExistsException",
				"The repository with name '%s' already exists in the registry with id '%s'", in.Name, a.cfg.AccountID)
		}
		(*all)[in.Name] = made
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &oneRepository{a.shown(in.Name, made)}, nil
}

type deleteRepositoryRequest struct {
	Name  string `json:"repositoryName"`
	Force bool   `json:"force"`
}

func (a *api) deleteRepository(c *service.Call, in *deleteRepositoryRequest) (*oneRepository, error) {
	if err := c.Authorize(a.arn(in.Name), nil); err != nil {
		return nil, err
	}
	var was repository
	err := a.store.Change(func(all *repositories) error {
		var ok bool
		if was, ok = (*all)[in.Name]; !ok {
			return service.Errorf(http.StatusBadRequest, "RepositoryNotFoundException", "%s", a.notFound(in.Name))
		}
		if len(was.Manifests) > 0 && !in.Force {
			return service.Errorf(http.StatusBadRequest, "RepositoryNotEmptyException",
				"The repository with name '%s' in registry with id '%s' cannot be deleted because it still contains images", in.Name, a.cfg.AccountID)
		}
		delete(*all, in.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &oneRepository{a.shown(in.Name, was)}, nil
}

type describeRepositoriesRequest struct {
	Names []string `json:"repositoryNames"`
}

type describeRepositoriesAnswer struct {
	Repositories []repositoryAnswer `json:"repositories"`
}

func (a *api) describeRepositories(c *service.Call, in *describeRepositoriesRequest) (*describeRepositoriesAnswer, error) {
	all := a.store.Now()
	names, resources := in.Names, []string{}
	for _, name := range names {
		resources = append(resources, a.arn(name))
	}
	if len(names) == 0 {
		names, resources = slices.Sorted(maps.Keys(all)), []string{a.arn("*")}
	}
	for _, r := range resources {
		if err := c.Authorize(r, nil); err != nil {
			return nil, err
		}
	}
	answer := &describeRepositoriesAnswer{Repositories: []repositoryAnswer{}}
	for _, name := range names {
		r, ok := all[name]
		if !ok {
			return nil, service.Errorf(http.StatusBadRequest, "RepositoryNotFoundException", "%s", a.notFound(name))
		}
		answer.Repositories = append(answer.Repositories, a.shown(name, r))
	}
	return answer, nil
}
