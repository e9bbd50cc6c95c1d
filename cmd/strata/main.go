// Command strata builds container images in layers and rebuilds only what
// changed.
package main

import (
	"os"

	"github.com/strata-build/strata/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(cli.Main(version)) }
