package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// objects are one rendering's, decoded.
type objects struct {
	statefulSet   *appsv1.StatefulSet
	services      map[string]*corev1.Service
	secrets       map[string]*corev1.Secret
	budget        *policyv1.PodDisruptionBudget
	networkPolicy *networkingv1.NetworkPolicy // nil: none
}

// decode reads a stream of manifests into the API's types. A field that they do not have is an error.
func decode(manifests []byte) (*objects, error) {
	o := &objects{services: map[string]*corev1.Service{}, secrets: map[string]*corev1.Secret{}}
	reader := utilyaml.NewYAMLReader(newReader(manifests))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return o, nil
		} else if err != nil {
			return nil, err
		}
		if err := o.add(doc); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
	}
}

func (o *objects) add(doc []byte) error {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &meta); err != nil {
		return err
	}
	if meta.Kind == "" && len(bytes.TrimSpace(comments.ReplaceAll(doc, nil))) == 0 {
		return nil // a template that came out empty
	}
	switch kind := meta.APIVersion + " " + meta.Kind; kind {
	case "apps/v1 StatefulSet":
		o.statefulSet = new(appsv1.StatefulSet)
		return strict(doc, o.statefulSet)
	case "v1 Service":
		s := new(corev1.Service)
		err := strict(doc, s)
		o.services[s.Name] = s
		return err
	case "v1 Secret":
		s := new(corev1.Secret)
		err := strict(doc, s)
		o.secrets[s.Name] = s
		return err
	case "policy/v1 PodDisruptionBudget":
		o.budget = new(policyv1.PodDisruptionBudget)
		return strict(doc, o.budget)
	case "networking.k8s.io/v1 NetworkPolicy":
		o.networkPolicy = new(networkingv1.NetworkPolicy)
		return strict(doc, o.networkPolicy)
	default:
		return fmt.Errorf("a %s is not expected", kind)
	}
}

var comments = regexp.MustCompile(`(?m)^(#.*|---)$`)

// strict decodes as the API server does when it validates strictly: names count by case, and no field is there twice.
func strict(doc []byte, into any) error {
	data, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	unknown, err := json.UnmarshalStrict(data, into)
	return errors.Join(append(unknown, err)...)
}

const (
	kustomizations = "../kubernetes"
	chartDir       = "../helm/warren"
)

func kustomize(dir string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	return resources.AsYaml()
}

// renderChart renders the chart as `helm install` does, with a file of values checked against the chart's schema.
func renderChart(release string, values map[string]any) ([]byte, error) {
	chart, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: release, Namespace: "queues", Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for name, text := range files {
		if filepath.Ext(name) == ".yaml" {
			fmt.Fprintf(&out, "---\n# %s\n%s\n", name, text)
		}
	}
	return out.Bytes(), nil
}

func readValues(t *testing.T, path string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// renderings are all the ways in which the manifests come out, by name.
func renderings(t *testing.T) map[string]*objects {
	t.Helper()
	all := map[string]*objects{}
	add := func(name string, manifests []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		o, err := decode(manifests)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = o
	}
	for _, dir := range []string{"base", "tls"} {
		manifests, err := kustomize(filepath.Join(kustomizations, dir))
		add("kubernetes/"+dir, manifests, err)
	}
	files, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files of values, %v", len(files), err)
	}
	for _, file := range files {
		manifests, err := renderChart("prod", readValues(t, file))
		add("helm/"+filepath.Base(file), manifests, err)
	}
	manifests, err := renderChart("my-warren-2", map[string]any{"admin": map[string]any{"password": "x"}})
	add("helm/defaults", manifests, err)
	return all
}

// TestUnknownFieldsFail shows that the decoding is strict.
func TestUnknownFieldsFail(t *testing.T) {
	manifests, err := kustomize(filepath.Join(kustomizations, "base"))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"podManagementPolicy:", "podManagmentPolicy:"},
		{"readOnlyRootFilesystem:", "readOnlyRootFileSystem:"},
		{"publishNotReadyAddresses:", "publishNotReadyAddress:"},
		{"maxUnavailable: 1", "maxUnavailable: 1\n  maxUnavailable: 1"},
		{"policyTypes:", "policies:"},
	} {
		changed := strings.Replace(string(manifests), change[0], change[1], 1)
		if changed == string(manifests) {
			t.Fatalf("%q is not there", change[0])
		}
		if _, err := decode([]byte(changed)); err == nil {
			t.Errorf("%q was accepted", change[1])
		}
	}
}

// TestChartRefuses gives the chart values that it must not take.
func TestChartRefuses(t *testing.T) {
	admin := map[string]any{"password": "x"}
	for name, tc := range map[string]struct {
		values map[string]any
		want   string
	}{
		"no password":   {map[string]any{}, "admin.password"},
		"unknown value": {map[string]any{"admin": admin, "replica": 3}, "replica"},
		"wrong type":    {map[string]any{"admin": admin, "replicas": "three"}, "replicas"},
		"no nodes":      {map[string]any{"admin": admin, "replicas": 0}, "replicas"},
		"affinity":      {map[string]any{"admin": admin, "antiAffinity": "hard"}, "antiAffinity"},
	} {
		if _, err := renderChart("prod", tc.values); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}
