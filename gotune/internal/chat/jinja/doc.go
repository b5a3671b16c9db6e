// Package jinja renders the part of the Jinja2 template language that chat
// templates use, with Python's rules for values and text: None and True, repr,
// str.strip's white space, code points as characters, dictionaries that keep the
// order of insertion.
//
// It follows Jinja2 3.1 in the environment that transformers makes for chat
// templates: ImmutableSandboxedEnvironment with trim_blocks and lstrip_blocks, the
// loop controls, the generation tag, and the globals raise_exception,
// strftime_now, namespace, dict and range. There is no loading of other templates
// (include, import, extends), no async, no autoescape, and nothing changes a list
// or dictionary in place.
//
// Templates come from downloaded models, so rendering is bounded: [Limits] says
// how many steps, how deep, and how many bytes.
package jinja
