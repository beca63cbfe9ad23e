# From `cargo metadata`: SPDX 2.3 of the crates that the four programs are linked from. What only tests and build scripts need
# is not in them.
def id: "SPDXRef-" + (.name + "-" + .version | gsub("[^A-Za-z0-9.-]"; "-"));

(.packages | map({(.id): .}) | add) as $packages
| (.resolve.nodes | map({(.id): [.deps[] | select(.dep_kinds | any(.kind == null)) | .pkg]}) | add) as $needs
| ["k8slan-device-plugin", "macvtap", "vlan-bridge", "ipam-pool"] as $programs
| [$packages[] | select(.source == null and (.name | IN($programs[]))) | .id] as $roots
| (if ($roots | length) == ($programs | length) then . else error("a program is missing") end)
| (reduce range(0; 1000) as $_ ({seen: {}, next: $roots};
    if .next == [] then .
    else .next as $next
    | .seen += ($next | map({(.): true}) | add)
    | .seen as $seen
    | .next = ([$next[] | $needs[.][]] | unique | map(select($seen[.] | not)))
    end) | .seen | keys) as $all
| {
    spdxVersion: "SPDX-2.3",
    dataLicense: "CC0-1.0",
    SPDXID: "SPDXRef-DOCUMENT",
    name: "k8slan-\($version)",
    documentNamespace: "https://github.com/\($owner)/k8slan/releases/download/v\($version)/k8slan.spdx.json",
    creationInfo: {created: $created, creators: ["Tool: cargo-metadata", "Organization: \($owner)"]},
    packages: [$all[] | $packages[.] | {
        SPDXID: id,
        name: .name,
        versionInfo: .version,
        downloadLocation: "NOASSERTION",
        filesAnalyzed: false,
        licenseConcluded: "NOASSERTION",
        licenseDeclared: ((.license // "NOASSERTION") | gsub(" */ *"; " OR ") | gsub(" +"; " ")),
        copyrightText: "NOASSERTION",
        externalRefs: (if .source == null then [] else [{
            referenceCategory: "PACKAGE-MANAGER", referenceType: "purl", referenceLocator: "pkg:cargo/\(.name)@\(.version)"
        }] end)
    }],
    relationships: (
        [$roots[] | {spdxElementId: "SPDXRef-DOCUMENT", relationshipType: "DESCRIBES", relatedSpdxElement: ($packages[.] | id)}]
        + [$all[] as $from | $needs[$from][] | {
            spdxElementId: ($packages[$from] | id), relationshipType: "DEPENDS_ON", relatedSpdxElement: ($packages[.] | id)
        }]
    )
}
