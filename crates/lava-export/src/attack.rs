//! MITRE ATT&CK's numbers.

/// True for `T1542` and `T1542.003`: a finding of a user's own rule may name none.
pub(crate) fn is_technique(id: &str) -> bool {
    let digits = |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    let Some(number) = id.strip_prefix('T') else { return false };
    match number.split_once('.') {
        None => digits(number, 4),
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
    }
}

/// Where MITRE describes it.
pub(crate) fn url(id: &str) -> String {
    format!("https://attack.mitre.org/techniques/{}/", id.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_what_is_none() {
        assert!(is_technique("T1542.003") && is_technique("T1106"));
        assert!(!["-", "T1", "T1542.03", "T1542/../x", "T15420", ""].iter().any(|id| is_technique(id)));
        assert_eq!(url("T1542.003"), "https://attack.mitre.org/techniques/T1542/003/");
    }
}
