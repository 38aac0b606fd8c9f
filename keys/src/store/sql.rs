//! Parts of statements that stores of SQL have in common.

/// Ids of the keys of tenant $1 that are no data subject's and no process's. By ranges that the index
/// orders: subjects are many, and are stepped over.
macro_rules! shared_kids {
    () => {
        "SELECT kid FROM keys WHERE tenant = $1 AND scope NOT LIKE 'schema:%' AND scope NOT LIKE 'subject:%'
           AND kind IN ('deterministic', 'index', 'dead_letter', 'subject_ref', 'wrapping', 'audit')
         UNION ALL
         SELECT kid FROM keys WHERE tenant = $1 AND scope NOT LIKE 'schema:%' AND kind = 'data' AND scope >= 'shared:' AND scope < 'shared;'"
    };
}

/// The rows of those keys, sorted.
macro_rules! of_shared {
    () => {
        concat!(
            "WHERE k.kid IN (",
            $crate::store::sql::shared_kids!(),
            ")",
            $crate::store::sql::in_order!()
        )
    };
}

/// The rows of those keys and of processes', sorted.
macro_rules! of_all_but_subjects {
    () => {
        concat!(
            "WHERE k.kid IN (",
            $crate::store::sql::shared_kids!(),
            " UNION ALL SELECT kid FROM keys WHERE tenant = $1 AND scope LIKE 'schema:%')",
            $crate::store::sql::in_order!()
        )
    };
}

macro_rules! in_order {
    () => {
        " ORDER BY k.created, k.kind, k.scope, k.version, k.kid, w.kek_uri"
    };
}

pub(crate) use {in_order, of_all_but_subjects, of_shared, shared_kids};
