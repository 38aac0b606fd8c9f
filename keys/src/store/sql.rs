//! What statements of the stores in SQL have in common.

/// Rows of keys that are no data subject's, sorted: `shared` ones, or `all` with those of processes.
/// By ranges that the index orders: data subjects are many, and are stepped over.
macro_rules! keys_but_subjects {
    (shared) => {
        $crate::store::sql::keys_but_subjects!("")
    };
    (all) => {
        $crate::store::sql::keys_but_subjects!(
            " UNION ALL SELECT kid FROM keys WHERE tenant = $1 AND scope LIKE 'schema:%'"
        )
    };
    ($others:literal) => {
        concat!(
            "WHERE k.kid IN (
               SELECT kid FROM keys WHERE tenant = $1 AND scope NOT LIKE 'schema:%' AND scope NOT LIKE 'subject:%'
                 AND kind IN ('deterministic', 'index', 'dead_letter', 'subject_ref', 'wrapping', 'audit')
               UNION ALL
               SELECT kid FROM keys WHERE tenant = $1 AND scope NOT LIKE 'schema:%' AND kind = 'data' AND scope >= 'shared:' AND scope < 'shared;'",
            $others,
            ") ORDER BY k.created, k.kind, k.scope, k.version, k.kid, w.kek_uri"
        )
    };
}

pub(crate) use keys_but_subjects;
