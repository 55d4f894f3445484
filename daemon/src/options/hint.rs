//! What was probably meant by a flag that does not exist.

use super::flags::FLAGS;

pub(super) fn for_unknown(name: &str) -> Option<String> {
    if let Some((_, why)) = GONE.iter().find(|(gone, _)| *gone == name) {
        return Some(format!("{why}; leave it out"));
    }
    let wanted = name.to_ascii_lowercase().replace('_', "-");
    let (distance, nearest) = FLAGS
        .iter()
        .map(|flag| (distance(&wanted, flag.name), flag.name))
        .min()?;
    // A third of the letters wrong is another word.
    (distance <= (nearest.len() / 3).max(1)).then(|| format!("did you mean -{nearest}?"))
}

/// Levenshtein's: letters to add, drop or change.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Flags that flanneld itself gave up.
const GONE: [(&str, &str); 4] = [
    (
        "use-multi-cluster-cidr",
        "the Kubernetes feature behind it was withdrawn, and flanneld dropped the flag after v0.20",
    ),
    ("listen", "server mode is gone from flanneld"),
    ("remote", "server mode is gone from flanneld"),
    ("networks", "flanneld serves one network, and so does weftd"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        assert_eq!(
            for_unknown("ip-mask").as_deref(),
            Some("did you mean -ip-masq?")
        );
        assert_eq!(
            for_unknown("etcd_prefix").as_deref(),
            Some("did you mean -etcd-prefix?")
        );
        assert_eq!(
            for_unknown("ifase").as_deref(),
            Some("did you mean -iface?")
        );
        assert_eq!(for_unknown("frobnicate"), None);
        assert!(
            for_unknown("use-multi-cluster-cidr")
                .unwrap()
                .contains("leave it out")
        );
    }

    proptest! {
        #[test]
        fn the_distance_is_a_distance(a: String, b: String) {
            prop_assert_eq!(distance(&a, &a), 0);
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &b) <= a.chars().count().max(b.chars().count()));
        }
    }
}
