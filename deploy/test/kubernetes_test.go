package test

import (
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestManifests reads every rendering, runs the binary with what its container is given, and compares.
func TestManifests(t *testing.T) {
	for name, o := range renderings(t) {
		t.Run(name, func(t *testing.T) {
			if o.statefulSet == nil || o.budget == nil {
				t.Fatal("a StatefulSet or a PodDisruptionBudget is missing")
			}
			container := onlyContainer(t, o)
			s := effective(t, environment(t, container), container.Args...)
			checkPorts(t, o, container, s)
			checkProbes(t, container, s)
			checkVolumes(t, o, container, s)
			checkNodes(t, o, s)
			checkSelectors(t, o)
			checkSecurity(t, o, container)
		})
	}
}

func onlyContainer(t *testing.T, o *objects) *corev1.Container {
	t.Helper()
	spec := &o.statefulSet.Spec.Template.Spec
	if len(spec.Containers) != 1 || len(spec.InitContainers) != 0 {
		t.Fatal("one container is expected")
	}
	return &spec.Containers[0]
}

// environment is what the kubelet would give the container.
func environment(t *testing.T, c *corev1.Container) []string {
	t.Helper()
	fields := map[string]string{"metadata.name": "warren-0", "status.podIP": "10.1.2.3"}
	var list []string
	seen := map[string]bool{}
	for _, v := range c.Env {
		value := v.Value
		if v.ValueFrom != nil {
			value = fields[v.ValueFrom.FieldRef.FieldPath]
		}
		if value == "" || seen[v.Name] {
			t.Errorf("%s has no value, or is there twice", v.Name)
		}
		seen[v.Name] = true
		list = append(list, v.Name+"="+value)
	}
	return list
}

// checkPorts compares the node's ports with the container's, the Services' and the NetworkPolicy's.
func checkPorts(t *testing.T, o *objects, c *corev1.Container, s *settings) {
	t.Helper()
	got := map[string]int32{}
	for _, p := range c.Ports {
		name := p.Name
		if p.Protocol == corev1.ProtocolUDP {
			name += "/udp"
		}
		got[name] = p.ContainerPort
	}
	if want := s.ports(); !maps.Equal(got, want) {
		t.Errorf("the container has ports %v, the node opens %v", got, want)
	}
	covered := map[string]bool{}
	for _, service := range o.services {
		for _, p := range service.Spec.Ports {
			target := p.TargetPort.StrVal
			if p.Protocol == corev1.ProtocolUDP {
				target += "/udp"
			}
			if number, ok := got[target]; !ok || number != p.Port {
				t.Errorf("service %s: port %s %d leads to %q", service.Name, p.Name, p.Port, target)
			}
			covered[target] = true
		}
	}
	if len(covered) != len(got) {
		t.Errorf("the Services have %v of the ports %v", slices.Sorted(maps.Keys(covered)), got)
	}
	if o.networkPolicy != nil {
		checkNetworkPolicy(t, o.networkPolicy, s)
	}
}

// checkNetworkPolicy wants the clients' ports open to all and the others to nodes.
func checkNetworkPolicy(t *testing.T, p *networkingv1.NetworkPolicy, s *settings) {
	t.Helper()
	ports := s.ports()
	numbers := func(list []networkingv1.NetworkPolicyPort) (out []int32) {
		for _, p := range list {
			number := p.Port.IntVal
			if p.Port.Type == intstr.String {
				number = ports[p.Port.StrVal]
			}
			out = append(out, number)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	clients := []int32{s.HTTPPort, s.GRPCPort, s.AMQPPort}
	if s.TLSCert != "" {
		clients = append(clients, s.AMQPSPort)
	}
	clients = slices.DeleteFunc(clients, func(port int32) bool { return port == 0 })
	slices.Sort(clients)
	between := []int32{s.ClusterPort, s.GossipPort}
	slices.Sort(between)
	for _, rule := range p.Spec.Ingress {
		want := between
		if len(rule.From) == 0 {
			want = clients
		} else if rule.From[0].PodSelector == nil || rule.From[0].PodSelector.String() != p.Spec.PodSelector.String() {
			t.Errorf("who may come in: %v", rule.From)
		}
		if got := numbers(rule.Ports); !slices.Equal(got, want) {
			t.Errorf("open to %v: %v, want %v", rule.From, got, want)
		}
	}
	if got := numbers(p.Spec.Egress[0].Ports); len(p.Spec.Ingress) != 2 || !slices.Equal(got, between) {
		t.Errorf("a node may reach %v of the others, want %v", got, between)
	}
}

// checkProbes wants probes that ask pages which the binary has (TestHealthPages), by the scheme that it speaks.
func checkProbes(t *testing.T, c *corev1.Container, s *settings) {
	t.Helper()
	scheme := corev1.URIScheme("")
	if s.TLSCert != "" {
		scheme = corev1.URISchemeHTTPS
	}
	for name, probe := range map[string]*corev1.Probe{live: c.StartupProbe, live + " ": c.LivenessProbe, ready: c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			t.Fatal("a probe is missing")
		}
		if get := probe.HTTPGet; get.Path != strings.TrimSpace(name) || get.Port.StrVal != "http" || get.Scheme != scheme {
			t.Errorf("a probe asks %v, want %s over %q", get, name, scheme)
		}
	}
	stop := c.Lifecycle.PreStop
	if stop.Exec != nil {
		if _, err := warren(t, nil, append(stop.Exec.Command[1:], "--help")...); err != nil {
			t.Error(err)
		}
	} else if stop.Sleep == nil {
		t.Error("nothing is done before a stop")
	}
}

// checkVolumes wants the data on a claim, and every file that the settings name in a Secret that is mounted.
func checkVolumes(t *testing.T, o *objects, c *corev1.Container, s *settings) {
	t.Helper()
	sources := map[string]string{}
	for _, claim := range o.statefulSet.Spec.VolumeClaimTemplates {
		sources[claim.Name] = "claim"
		if claim.Spec.Resources.Requests.Storage().IsZero() {
			t.Errorf("the claim %s asks for nothing", claim.Name)
		}
	}
	for _, v := range o.statefulSet.Spec.Template.Spec.Volumes {
		if v.Secret == nil {
			t.Errorf("volume %s is no Secret", v.Name)
			continue
		}
		sources[v.Name] = "secret"
		if secret := o.secrets[v.Secret.SecretName]; secret != nil && len(secret.Data["password"]) == 0 && secret.StringData["password"] == "" {
			t.Errorf("Secret %s has no password", secret.Name)
		}
	}
	mounts := map[string]string{}
	for _, m := range c.VolumeMounts {
		if sources[m.Name] == "" {
			t.Errorf("nothing is mounted as %s", m.Name)
		}
		if (sources[m.Name] == "secret") != m.ReadOnly {
			t.Errorf("%s: read-only is %v", m.Name, m.ReadOnly)
		}
		if m.SubPath != "" {
			t.Errorf("%s: a file that is mounted by itself does not change with its Secret", m.Name)
		}
		mounts[m.MountPath] = sources[m.Name]
		delete(sources, m.Name)
	}
	if len(sources) > 0 {
		t.Errorf("not mounted: %v", sources)
	}
	if mounts[s.DataDir] != "claim" {
		t.Errorf("the data is in %s, which is no claim", s.DataDir)
	}
	for _, file := range s.files() {
		if mounts[path.Dir(file)] != "secret" {
			t.Errorf("%s is in no Secret", file)
		}
	}
}

// checkNodes wants nodes that find one another by the headless Service.
func checkNodes(t *testing.T, o *objects, s *settings) {
	t.Helper()
	spec := &o.statefulSet.Spec
	headless := o.services[spec.ServiceName]
	if headless == nil || headless.Spec.ClusterIP != corev1.ClusterIPNone || !headless.Spec.PublishNotReadyAddresses {
		t.Fatalf("%s is no headless Service with the addresses of all nodes", spec.ServiceName)
	}
	host, port, err := net.SplitHostPort(s.Join[0])
	if err != nil || len(s.Join) != 1 || host != headless.Name || port != "7946" || s.GossipPort != 7946 {
		t.Errorf("nodes join %v", s.Join)
	}
	if s.Host != "0.0.0.0" || s.Advertise != "10.1.2.3" || s.Name != "warren-0" {
		t.Errorf("a node listens at %s, is told of as %s and is called %s", s.Host, s.Advertise, s.Name)
	}
	if spec.PodManagementPolicy != "Parallel" || *spec.Replicas < int32(s.Expect) || s.Expect < 1 {
		t.Errorf("%d nodes start %s, and wait for %d", *spec.Replicas, spec.PodManagementPolicy, s.Expect)
	}
	if links := spec.Template.Spec.EnableServiceLinks; links == nil || *links {
		t.Error("variables of Services would be taken for settings")
	}
	if grace := spec.Template.Spec.TerminationGracePeriodSeconds; grace == nil || *grace < 60 {
		t.Error("there is no time for a drain")
	}
}

// checkSelectors wants everything that selects pods to select the StatefulSet's.
func checkSelectors(t *testing.T, o *objects) {
	t.Helper()
	pod := labels.Set(o.statefulSet.Spec.Template.Labels)
	matches := func(what string, s *metav1.LabelSelector) {
		t.Helper()
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil || selector.Empty() || !selector.Matches(pod) {
			t.Errorf("%s selects %v, the pods have %v, %v", what, s, pod, err)
		}
	}
	matches("StatefulSet", o.statefulSet.Spec.Selector)
	matches("PodDisruptionBudget", o.budget.Spec.Selector)
	if o.budget.Spec.MaxUnavailable.IntValue() != 1 || o.budget.Spec.MinAvailable != nil {
		t.Errorf("the budget is %v", o.budget.Spec)
	}
	if o.networkPolicy != nil {
		matches("NetworkPolicy", &o.networkPolicy.Spec.PodSelector)
	}
	if len(o.services) != 2 {
		t.Errorf("%d Services", len(o.services))
	}
	for name, s := range o.services {
		matches("Service "+name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	}
	for _, c := range o.statefulSet.Spec.Template.Spec.TopologySpreadConstraints {
		matches("spread", c.LabelSelector)
	}
	if affinity := o.statefulSet.Spec.Template.Spec.Affinity; affinity != nil {
		for _, term := range affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			matches("anti-affinity", term.LabelSelector)
		}
		for _, term := range affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			matches("anti-affinity", term.PodAffinityTerm.LabelSelector)
		}
	}
}

// checkSecurity wants a pod that the profile "restricted" of Kubernetes lets in.
func checkSecurity(t *testing.T, o *objects, c *corev1.Container) {
	t.Helper()
	spec := &o.statefulSet.Spec.Template.Spec
	pod, container := spec.SecurityContext, c.SecurityContext
	if !*pod.RunAsNonRoot || *pod.RunAsUser == 0 || *pod.FSGroup != *pod.RunAsGroup || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod: %v", pod)
	}
	if *container.AllowPrivilegeEscalation || !*container.ReadOnlyRootFilesystem || !slices.Equal(container.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(container.Capabilities.Add) != 0 {
		t.Errorf("container: %v", container)
	}
	if *spec.AutomountServiceAccountToken || spec.HostNetwork || spec.HostPID {
		t.Error("the pod has what it does not need")
	}
}
