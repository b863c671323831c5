package test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// The pages that probes ask.
const (
	live  = "/health/live"
	ready = "/health/ready"
)

// TestHealthPages runs a node and asks the pages of the probes.
func TestHealthPages(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	var held []net.Listener // until all are found: no port is found twice
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	for _, l := range held {
		_ = l.Close()
	}
	environment := []string{"WARREN_DATA_DIR=" + filepath.Join(t.TempDir(), "data"), "WARREN_AMQP_PORT=" + ports[0], "WARREN_HTTP_PORT=" + ports[1],
		"WARREN_GRPC_PORT=" + ports[2], "WARREN_CLUSTER_PORT=" + ports[3], "WARREN_GOSSIP_PORT=" + ports[4], "WARREN_NAME=probed"}
	node := exec.Command(path, "server")
	node.Env = environment
	var log bytes.Buffer
	node.Stderr = &log
	node.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- node.Wait() }()
	defer func() {
		_ = node.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the node's end: %v\n%s", err, log.String())
		}
	}()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		text, err := warren(t, environment, "health") // as the image's health check
		if err == nil && strings.TrimSpace(text) == "ready" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for _, page := range []string{live, ready} {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:"+ports[1]+page, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", page, response.Status)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// image is what the Dockerfile says of the node.
type image struct {
	environment []string
	exposed     []string
	volume      string
	health      []string
	command     []string
}

// readDockerfile reads the stage that all images share.
func readDockerfile(t *testing.T) *image {
	t.Helper()
	text := readFile(t, "../docker/Dockerfile")
	base, _, found := strings.Cut(text, "FROM base AS prebuilt")
	if !found || !strings.Contains(base, "\nUSER 65532:65532\n") {
		t.Fatal("the shared stage of the Dockerfile is not as expected")
	}
	words := func(instruction string) []string {
		m := regexp.MustCompile(`(?m)^` + instruction + ` (.*)$`).FindStringSubmatch(base)
		if m == nil {
			t.Fatalf("no %s in the Dockerfile", instruction)
		}
		return strings.Fields(m[1])
	}
	list := func(instruction string) (out []string) {
		m := regexp.MustCompile(`(?m)^` + instruction + ` (\[.*\])$`).FindStringSubmatch(base)
		if m == nil {
			t.Fatalf("no %s in the Dockerfile", instruction)
		}
		if err := yaml.Unmarshal([]byte(m[1]), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if entry := list("ENTRYPOINT"); !slices.Equal(entry, []string{"/warren"}) || strings.Count(text, " /warren\n") < 2 {
		t.Errorf("the entry point is %v", entry)
	}
	return &image{words("ENV"), words("EXPOSE"), words("VOLUME")[0], list("HEALTHCHECK.* CMD"), list("CMD")}
}

// TestDockerfile compares the image with the binary.
func TestDockerfile(t *testing.T) {
	i := readDockerfile(t)
	s := effective(t, i.environment, i.command...)
	if s.DataDir != i.volume || s.Host != "0.0.0.0" {
		t.Errorf("the data is in %s, the volume is %s, the address %s", s.DataDir, i.volume, s.Host)
	}
	var want []string
	for name, port := range s.ports() {
		text := strconv.Itoa(int(port))
		if strings.HasSuffix(name, "/udp") {
			text += "/udp"
		}
		want = append(want, text)
	}
	want = append(want, strconv.Itoa(int(s.AMQPSPort)))
	slices.Sort(want)
	slices.Sort(i.exposed)
	if !slices.Equal(want, i.exposed) {
		t.Errorf("the image shows ports %v, the node opens %v", i.exposed, want)
	}
	if i.health[0] != "/warren" {
		t.Errorf("the health check is %v", i.health)
	}
	if _, err := warren(t, i.environment, append(i.health[1:], "--help")...); err != nil {
		t.Error(err)
	}
	kept := strings.Contains(readFile(t, root+"/.dockerignore"), "\ndeploy/docker/data/.gitkeep\n")
	if entries, err := os.ReadDir("../docker/data"); err != nil || len(entries) != 1 || !kept {
		t.Errorf("the directory of the volume must come empty into the image: %v, %v", entries, err)
	}
}

// compose is what the nodes of the compose file need.
type compose struct {
	Services map[string]struct {
		Image       string            `json:"image"`
		Hostname    string            `json:"hostname"`
		Environment map[string]string `json:"environment"`
		Volumes     []string          `json:"volumes"`
		Ports       []string          `json:"ports"`
		Secrets     []string          `json:"secrets"`
		ReadOnly    bool              `json:"read_only"`
	} `json:"services"`
	Secrets map[string]struct {
		File string `json:"file"`
	} `json:"secrets"`
	Volumes map[string]any `json:"volumes"`
}

// TestCompose compares the compose file with the image and the binary. That compose takes it is test/docker's.
func TestCompose(t *testing.T) {
	var c compose
	if err := yaml.Unmarshal([]byte(readFile(t, "../docker/compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Services) != 3 {
		t.Fatalf("%d nodes", len(c.Services))
	}
	i := readDockerfile(t)
	published := map[string]bool{}
	for name, service := range c.Services {
		environment := slices.Clone(i.environment)
		for k, v := range service.Environment {
			environment = append(environment, k+"="+v)
		}
		s := effective(t, environment, i.command...)
		if s.Advertise != name || s.Expect != 3 || len(s.Join) != 3 || !slices.Contains(s.Join, fmt.Sprintf("%s:%d", name, s.GossipPort)) {
			t.Errorf("%s is told of as %s, expects %d and joins %v", name, s.Advertise, s.Expect, s.Join)
		}
		volume, target, _ := strings.Cut(service.Volumes[0], ":")
		if _, known := c.Volumes[volume]; !known || target != s.DataDir || volume != name || !service.ReadOnly {
			t.Errorf("%s: volumes %v, data in %s", name, service.Volumes, s.DataDir)
		}
		if !slices.Equal(service.Secrets, []string{"password"}) || s.DefaultPasswordFile != "/run/secrets/password" {
			t.Errorf("%s: secrets %v, password in %s", name, service.Secrets, s.DefaultPasswordFile)
		}
		for _, p := range service.Ports {
			parts := strings.Split(p, ":")
			if port := parts[len(parts)-1]; port != strconv.Itoa(int(s.AMQPPort)) && port != strconv.Itoa(int(s.HTTPPort)) {
				t.Errorf("%s: %s leads nowhere", name, p)
			}
			if published[p] || parts[0] != "127.0.0.1" {
				t.Errorf("%s: %s is open to others, or twice", name, p)
			}
			published[p] = true
		}
	}
	if password := readFile(t, filepath.Join("../docker", c.Secrets["password"].File)); strings.TrimSpace(password) == "" {
		t.Error("no password")
	}
}

const unitFile = "../systemd/warren.service"

// TestUnit runs the unit's command with its environment and the file of settings beside it.
func TestUnit(t *testing.T) {
	unit := readFile(t, unitFile)
	value := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(unit)
		if m == nil {
			t.Fatalf("no %s in the unit", key)
		}
		return m[1]
	}
	words := strings.Fields(value("ExecStart"))
	if words[0] != "/usr/bin/warren" || words[len(words)-1] != "/etc/"+value("ConfigurationDirectory")+"/warren.yaml" {
		t.Fatalf("the command is %v", words)
	}
	sample := readFile(t, "../systemd/warren.yaml")
	// What is commented out must be right too.
	all := regexp.MustCompile(`(?m)^# ([a-z-]+: )`).ReplaceAllString(sample, "$1")
	if all == sample {
		t.Fatal("nothing is commented out in the sample")
	}
	for _, text := range []string{sample, all} {
		file := filepath.Join(t.TempDir(), "warren.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		words[len(words)-1] = file
		if s := effective(t, []string{value("Environment")}, words[1:]...); s.DataDir != "/var/lib/"+value("StateDirectory") || s.Expect != 3 {
			t.Errorf("data in %s, %d nodes", s.DataDir, s.Expect)
		}
	}
}

// TestUnitIsValid asks systemd.
func TestUnitIsValid(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	// verify wants a command that exists.
	file := filepath.Join(t.TempDir(), "warren.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(readFile(t, unitFile), "/usr/bin/warren", path)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput(); err != nil || strings.Contains(string(out), "warren.service") {
		t.Errorf("%v\n%s", err, out)
	}
}
