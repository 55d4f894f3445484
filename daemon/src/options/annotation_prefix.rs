//! `-kube-annotation-prefix`: what stands before each annotation's own name.

/// Normalised as flanneld does: `example.com` becomes `example.com/`, `example.com/blue` becomes
/// `example.com/blue-`.
pub fn annotation_prefix(text: &str) -> Result<String, String> {
    let mut prefix = text.to_owned();
    match text.matches('/').count() {
        0 => prefix.push('/'),
        1 if text.ends_with(['/', '-']) => {}
        1 => prefix.push('-'),
        _ => return Err("must hold at most one slash".to_owned()),
    }
    let (domain, name) = prefix.split_once('/').unwrap_or((&prefix, ""));
    let labels_well = domain.contains('.') && domain.split('.').all(is_label);
    let name_well = name.is_empty() || name.strip_suffix('-').is_some_and(is_label);
    if labels_well && name_well {
        return Ok(prefix);
    }
    Err(format!(
        "must be a domain such as example.com, or a domain and a name such as example.com/blue, in \
         lower-case letters, digits, - and _ (it was read as {prefix})"
    ))
}

fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_is_completed_as_flanneld_completes_it() {
        for (given, complete) in [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"),
            ("example.com/", "example.com/"),
            ("example.com/blue", "example.com/blue-"),
            ("example.com/blue-", "example.com/blue-"),
        ] {
            assert_eq!(annotation_prefix(given).as_deref(), Ok(complete));
        }
    }

    #[test]
    fn what_kubernetes_would_refuse_is_refused() {
        for given in [
            "",
            "/",
            "nodots",
            "a.b/c/d",
            "Example.com",
            "a..b",
            "a.b/-x y",
            ".a.b",
            "a.b/B",
        ] {
            assert!(annotation_prefix(given).is_err(), "{given}");
        }
    }

    proptest! {
        #[test]
        fn what_is_complete_stays_as_it_is(text in "[a-z]{1,3}(\\.[a-z]{1,3}){1,2}(/[a-z-]{0,4})?") {
            if let Ok(once) = annotation_prefix(&text) {
                prop_assert_eq!(annotation_prefix(&once), Ok(once));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = annotation_prefix(&text);
        }
    }
}
