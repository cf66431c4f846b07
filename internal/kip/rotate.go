package kip

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// rotation is a step of replacing the certificate authority. The steps follow one
// another, each when every Kip has been started again and has told its cells.
type rotation struct {
	name, short string
	// do changes the Secret, or says why it is not the time for it.
	do func(*corev1.Secret) error
}

var rotations = []rotation{
	{"introduce", "Make a new authority, which Kips and cells are to trust beside the one that signs", introduce},
	{"activate", "Have the new authority sign; the old one is still trusted", activate},
	{"retire", "End the trust in the old authority", retire},
}

// NewAuthorityCommand is the command kip authority.
func NewAuthorityCommand() *cobra.Command {
	o := Options{}
	cmd := &cobra.Command{
		Use:   "authority",
		Short: "Show Kip's certificate authority, or replace it while pods run",
		Long: `Shows and replaces the certificate authority from which the trust between Kip and
its cells comes, the Secret kip-ca in Kip's namespace. To replace it takes three
steps: introduce, activate, retire. After each, start all Kips again and wait
until the metric kip_cells_with_other_authorities is 0 (docs/upgrades.md). Pods
run on. It is run by an administrator: Kip itself may not change the Secret.`,
		Args: cobra.NoArgs,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as the pod's service account")
	f.StringVar(&o.Namespace, "namespace", "kip", "Kip's own namespace")
	client := func() (kubernetes.Interface, error) {
		cmd.SilenceUsage = true
		c, err := apiServer(o)
		if err != nil {
			return nil, err
		}
		return kubernetes.NewForConfig(c)
	}
	cmd.AddCommand(&cobra.Command{
		Use: "show", Short: "Show the authorities, the one that signs first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube, err := client()
			if err != nil {
				return err
			}
			return showAuthorities(cmd.Context(), kube, o.Namespace, cmd.OutOrStdout())
		},
	})
	for _, r := range rotations {
		cmd.AddCommand(&cobra.Command{
			Use: r.name, Short: r.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				kube, err := client()
				if err != nil {
					return err
				}
				if err := r.take(cmd.Context(), kube, o.Namespace); err != nil {
					return err
				}
				return showAuthorities(cmd.Context(), kube, o.Namespace, cmd.OutOrStdout())
			},
		})
	}
	return cmd
}

// take takes the step, unless somebody else changed the Secret meanwhile.
func (r rotation) take(ctx context.Context, kube kubernetes.Interface, namespace string) error {
	secrets := kube.CoreV1().Secrets(namespace)
	secret, err := secrets.Get(ctx, authoritySecret, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the certificate authority: %w", err)
	}
	// What cannot be read must not be made worse.
	if _, err := authoritiesIn(secret); err != nil {
		return err
	}
	if err := r.do(secret); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("writing the certificate authority: %w", err)
	}
	return nil
}

func introduce(secret *corev1.Secret) error {
	switch {
	case len(secret.Data[previousCert]) > 0:
		return errors.New("an old authority is trusted still: retire it first")
	case len(secret.Data[nextCert]) > 0:
		return errors.New("a new authority has been introduced: activate it")
	}
	return addAuthority(secret, nextCert, nextKey)
}

func activate(secret *corev1.Secret) error {
	d := secret.Data
	if len(d[nextCert]) == 0 {
		return errors.New("no new authority has been introduced")
	}
	d[previousCert], d[previousKey] = d[signerCert], d[signerKey]
	d[signerCert], d[signerKey] = d[nextCert], d[nextKey]
	delete(d, nextCert)
	delete(d, nextKey)
	return nil
}

func retire(secret *corev1.Secret) error {
	if len(secret.Data[previousCert]) == 0 {
		return errors.New("there is no old authority")
	}
	delete(secret.Data, previousCert)
	delete(secret.Data, previousKey)
	return nil
}

// showAuthorities prints what the Secret holds.
func showAuthorities(ctx context.Context, kube kubernetes.Interface, namespace string, w io.Writer) error {
	secret, err := kube.CoreV1().Secrets(namespace).Get(ctx, authoritySecret, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the certificate authority: %w", err)
	}
	all, err := keptIn(secret)
	if err != nil {
		return err
	}
	for _, k := range all {
		fmt.Fprintf(w, "%s  %-9s  until %s\n", k.ID(), k.does, k.NotAfter().UTC().Format("2006-01-02"))
	}
	return nil
}
