// Package page has the files of the daemon's web page. They are plain: what is served is what is in files, and nothing else is loaded.
package page

import (
	_ "embed"
)

//go:embed files/index.html
var index []byte

//go:embed files/app.js
var script []byte

//go:embed files/style.css
var style []byte

// File is one of them.
type File struct {
	Type string // its media type
	Body []byte
}

// Files are all, by the path that they refer to one another by.
func Files() map[string]File {
	return map[string]File{
		"/":               {Type: "text/html; charset=utf-8", Body: index},
		"/page/app.js":    {Type: "text/javascript; charset=utf-8", Body: script},
		"/page/style.css": {Type: "text/css; charset=utf-8", Body: style},
	}
}

// Policy is the Content-Security-Policy under which the page works: it loads its own files, asks its own server, and is in nobody's frame.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; " +
	"frame-ancestors 'none'"
