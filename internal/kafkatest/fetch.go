package kafkatest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

//go:embed pom.xml
var pom []byte

// complete is the file that says that all jars are there.
const complete = ".complete"

// Fetch gets the jars of a Kafka version from Maven into dir/version, about
// 100 files and 60 MB. It does nothing if they are there. Maven's own words go
// to out.
func Fetch(ctx context.Context, version, dir string, out io.Writer) error {
	if err := checkVersion(version); err != nil {
		return err
	}
	if Fetched(version, dir) {
		return nil
	}
	if err := checkJava(ctx); err != nil {
		return err
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return errors.New("fetch Kafka: mvn was not found: install Apache Maven 3 (apt-get install maven)")
	}
	target, err := filepath.Abs(filepath.Join(dir, version))
	if err != nil {
		return fmt.Errorf("fetch Kafka %s: %w", version, err)
	}
	tmp, err := os.MkdirTemp("", "starferry-pom-")
	if err != nil {
		return fmt.Errorf("fetch Kafka %s: %w", version, err)
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "pom.xml")
	if err := os.WriteFile(file, pom, 0o600); err != nil {
		return fmt.Errorf("fetch Kafka %s: %w", version, err)
	}
	if err := os.RemoveAll(target); err != nil { // what an interrupted fetch left
		return fmt.Errorf("fetch Kafka %s: %w", version, err)
	}
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", file, "-Dkafka.version="+version,
		"dependency:copy-dependencies", "-DoutputDirectory="+target, "-DincludeScope=runtime")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fetch Kafka %s: mvn: %w: check that the version exists and that Maven Central or its mirror can be reached", version, err)
	}
	if err := os.WriteFile(filepath.Join(target, complete), nil, 0o644); err != nil {
		return fmt.Errorf("fetch Kafka %s: %w", version, err)
	}
	return nil
}

// Fetched reports whether dir holds all jars of a version.
func Fetched(version, dir string) bool {
	_, err := os.Stat(filepath.Join(dir, version, complete))
	return err == nil
}

func checkVersion(v string) error {
	if !regexp.MustCompile(`^[0-9]+(\.[0-9]+){1,2}$`).MatchString(v) {
		return fmt.Errorf("version %q of Kafka: want one such as 4.3.1", v)
	}
	return nil
}

// checkJava wants Java 17 or newer, which brokers of Kafka 4 need.
func checkJava(ctx context.Context) error {
	const hint = "install Java 17 or newer (apt-get install openjdk-17-jre-headless)"
	java, err := exec.LookPath("java")
	if err != nil {
		return errors.New("java was not found: " + hint)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, java, "-version")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("java -version: %w: %s", err, hint)
	}
	m := regexp.MustCompile(`version "([0-9]+)`).FindStringSubmatch(out.String())
	if m == nil {
		return fmt.Errorf("java -version says %q: %s", strings.TrimSpace(out.String()), hint)
	}
	if major, _ := strconv.Atoi(m[1]); major < 17 {
		return fmt.Errorf("java is version %s: %s", m[1], hint)
	}
	return nil
}

// ModuleRoot finds the directory of go.mod above the working directory.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}
