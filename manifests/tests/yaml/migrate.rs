//! MIGRATE.md's commands for Kubernetes: no node is both DaemonSets', by whatever label it has.

use serde_json::{Value, json};

use crate::documents::{one, text};
use crate::overlays::rendered;

/// As the scheduler reads it, of what the walk-through uses.
fn takes(pod: &Value, label: Option<&str>) -> bool {
    let labels = json!({"kubernetes.io/os": "linux", "pod-network": label});
    let selected = pod["nodeSelector"].as_object().into_iter().flatten();
    let mut selected = selected.map(|(key, value)| labels[key] == *value);
    let wanted = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"][0]["matchExpressions"];
    let mut expressions = wanted.as_array().unwrap().iter().map(|expression| {
        let label = &labels[expression["key"].as_str().unwrap()];
        match expression["operator"].as_str() {
            Some("In") => expression["values"].as_array().unwrap().contains(label),
            Some("DoesNotExist") => label.is_null(),
            other => panic!("an operator {other:?}"),
        }
    });
    selected.all(|fits| fits) && expressions.all(|fits| fits)
}

/// Between the quotes of the command that patches flannel's DaemonSet.
fn patch() -> Value {
    let walk = text("MIGRATE.md");
    let (_, after) = walk.split_once("--patch '").unwrap();
    serde_json::from_str(after.split('\'').next().unwrap()).unwrap()
}

#[test]
fn a_node_s_label_chooses_which_of_the_two_serves_it_and_never_both() {
    let overlay = rendered("migrate");
    let wefts = &one(&overlay, "DaemonSet")["spec"]["template"]["spec"];
    let patch = patch();
    let flannels = &patch["spec"]["template"]["spec"];
    let serve = |label| [takes(flannels, label), takes(wefts, label)];
    assert_eq!(serve(None), [true, false]);
    assert_eq!(serve(Some("none")), [false, false]);
    assert_eq!(serve(Some("weft")), [false, true]);
    for label in ["none", "weft"] {
        let command = format!("kubectl label node NODE pod-network={label}");
        assert!(text("MIGRATE.md").contains(&command), "{command}");
    }
}
