package gotune

import (
	"fmt"
	"reflect"
	"strings"
)

// changes lists the settings of a run that are not the defaults, e.g.
// "LoRA.Rank 64, BatchSize 8". Names, sources and folders are left out.
func changes(t Trainer) string {
	if t.Bare() {
		return ""
	}
	plain, err := Trainer{Name: "x", Model: Model{Source: "embedded"}, Dataset: Dataset{Source: "embedded"}}.Resolved()
	if err != nil {
		return ""
	}
	if t.Eval != (Dataset{}) {
		plain.Eval = t.Eval
	}
	var list []string
	diff(&list, "", reflect.ValueOf(plain), reflect.ValueOf(t))
	return strings.Join(list, ", ")
}

func diff(list *[]string, place string, a, b reflect.Value) {
	for i := range a.NumField() {
		f := a.Type().Field(i)
		switch f.Name {
		case "_", "Name", "Source", "Revision", "OutputDir":
			continue
		}
		name := strings.TrimPrefix(place+"."+f.Name, ".")
		av, bv := a.Field(i), b.Field(i)
		switch {
		case f.Type.Kind() == reflect.Struct:
			diff(list, name, av, bv)
		case !reflect.DeepEqual(av.Interface(), bv.Interface()):
			value := fmt.Sprint(bv.Interface())
			if f.Type.Kind() == reflect.Slice {
				value = strings.Trim(value, "[]")
			}
			if f.Type.Kind() == reflect.Bool && bv.Bool() {
				*list = append(*list, name)
				continue
			}
			*list = append(*list, name+" "+value)
		}
	}
}
