package cli

import (
	"cmp"
	"strconv"
)

// cacheAttrs gives what a kind of BuildKit cache needs to know of its host's
// environment, as buildx does: where GitHub's cache is and the job's token for it,
// or the keys of AWS. They go to the engine alone, and are shown nowhere.
func cacheAttrs(kind string, env func(string) string) map[string]string {
	out := map[string]string{}
	set := func(attr, value string) {
		if value != "" {
			out[attr] = value
		}
	}
	switch kind {
	case "gha":
		set("token", env("ACTIONS_RUNTIME_TOKEN"))
		set("url", cmp.Or(env("ACTIONS_CACHE_URL"), env("ACTIONS_RESULTS_URL")))
		if second, err := strconv.ParseBool(env("ACTIONS_CACHE_SERVICE_V2")); err == nil && second {
			set("url_v2", env("ACTIONS_RESULTS_URL"))
		}
	case "s3":
		set("access_key_id", env("AWS_ACCESS_KEY_ID"))
		set("secret_access_key", env("AWS_SECRET_ACCESS_KEY"))
		set("session_token", env("AWS_SESSION_TOKEN"))
		set("region", cmp.Or(env("AWS_REGION"), env("AWS_DEFAULT_REGION")))
	}
	return out
}
