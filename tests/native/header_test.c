/* header_test.c - trit.h alone, first, as strict C11: it needs nothing before it. */
#include <trit/trit.h>

#include <stdio.h>

int main(void)
{
    trit_error err = {TRIT_OK, ""};
    int good =
        trit_status_name(TRIT_OK)[0] == 'T' && trit_layout_bytes(TRIT_LAYOUT_I8, 3, 5) == 15 && err.text[0] == '\0';
    printf("%d passed, %d failed\n", good, !good);
    return !good;
}
