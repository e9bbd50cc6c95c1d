// Command strata builds container images in layers and rebuilds only what
// changed.
package main

import (
	"os"
	"runtime/debug"

	"github.com/strata-build/strata/internal/cli"
)

// version is set by the linker; go install leaves it to the module's.
var version = "dev"

func main() {
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" && info.Main.Version != "(devel)" && info.Main.Version != "" {
		version = info.Main.Version
	}
	os.Exit(cli.Main(version))
}
